package deliver

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
)

// Shown is the address of a sink for people, logs and dead letters: credentials
// and the query, which may hold a token, are left out.
func Shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "" // it may hold them anywhere
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return u.String()
}

// RefusedError is an address that no sink may have.
type RefusedError struct{ Addr netip.Addr }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s is a link-local or metadata address; if a sink is meant to be there, list it in SINK_ALLOW", e.Addr)
}

// metadata are the addresses, beyond the link-local ones, where clouds answer a
// machine with its credentials.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS: instances, containers and pods
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure, the host of a machine
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// CheckAddr returns a *RefusedError for an address that sinks may not have,
// unless one of allow contains it.
func CheckAddr(addr netip.Addr, allow []netip.Prefix) error {
	addr = embedded(addr.WithZone(""))
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if !addr.IsLinkLocalUnicast() && !slices.ContainsFunc(metadata, contains) || slices.ContainsFunc(allow, contains) {
		return nil
	}
	return &RefusedError{addr}
}

// CheckHost is CheckAddr for a sink whose host is an address. What a name
// resolves to is known only when it is dialed.
func CheckHost(address string, allow []netip.Prefix) error {
	u, err := url.Parse(address)
	if err != nil {
		return nil //nolint:nilerr // reported by who reads the address
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return CheckAddr(addr, allow)
}

// embedded is the IPv4 address that is reached through addr, or addr: mapped, by
// NAT64 (64:ff9b::/96) or by 6to4 (2002::/16).
func embedded(addr netip.Addr) netip.Addr {
	b := addr.As16()
	switch {
	case addr.Is4() || addr.Is4In6():
		return addr.Unmap()
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

// dialControl runs after names were resolved and before a connection is opened,
// so that a name which resolves to another address from one moment to the next
// cannot get around the check.
func dialControl(allow []netip.Prefix) func(network, address string, c syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return CheckAddr(to.Addr(), allow)
	}
}
