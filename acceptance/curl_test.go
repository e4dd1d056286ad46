package acceptance_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// curl implements the options that the documents use: -X, -H, -d, -i, -s, -f, -o.
// As in curl, -d makes a POST with a form content type unless -H sets another.
// Ports of the documents become the script's own, so that scripts contain the
// lines word for word. It is a command of the scripts, and a program for their
// shell parts.
type curl struct {
	base string                   // port of the script's task API; "" leaves ports alone
	path func(name string) string // resolves the name of a file
}

// curlProgram is curl as a program.
func curlProgram() int {
	c := curl{os.Getenv("TASKWIRE_PORT_BASE"), func(name string) string { return name }}
	return c.run(os.Args[1:], os.Stdout, os.Stderr)
}

// curlCommand is curl as a line of a script.
func curlCommand(ts *testscript.TestScript, neg bool, args []string) {
	c := curl{ts.Getenv("TASKWIRE_PORT_BASE"), ts.MkAbs}
	if status := c.run(args, ts.Stdout(), ts.Stderr()); (status != 0) != neg {
		ts.Fatalf("curl: exit status %d", status)
	}
}

func (c curl) run(args []string, stdout, stderr io.Writer) int {
	req, opts, err := c.request(args)
	if err != nil {
		fmt.Fprintln(stderr, "curl:", err)
		return 2
	}
	client := &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Fprintln(stderr, "curl:", err)
		return 7
	}
	defer resp.Body.Close()
	if opts.fail && resp.StatusCode >= 400 {
		fmt.Fprintln(stderr, "curl: the requested URL returned error:", resp.StatusCode)
		return 22
	}
	if opts.output != "" {
		f, err := os.Create(c.path(opts.output))
		if err != nil {
			fmt.Fprintln(stderr, "curl:", err)
			return 23
		}
		defer f.Close()
		stdout = f
	}
	if opts.include {
		fmt.Fprintf(stdout, "%s %s\n", resp.Proto, resp.Status)
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			for _, v := range resp.Header[name] {
				fmt.Fprintf(stdout, "%s: %s\n", name, v)
			}
		}
		fmt.Fprintln(stdout)
	}
	if _, err := io.Copy(stdout, resp.Body); err != nil {
		fmt.Fprintln(stderr, "curl:", err)
		return 18
	}
	return 0
}

type curlOptions struct {
	include, fail bool
	output        string
}

func (c curl) request(args []string) (*http.Request, curlOptions, error) {
	var opts curlOptions
	var method, target string
	var data []string
	header := http.Header{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch arg {
		case "-i", "--include":
			opts.include = true
			continue
		case "-f", "--fail":
			opts.fail = true
			continue
		case "-s", "-S", "-sS", "--silent":
			continue
		}
		if !strings.HasPrefix(arg, "-") {
			target = arg
			continue
		}
		if len(args) == 0 {
			return nil, opts, fmt.Errorf("option %s needs a value", arg)
		}
		value := args[0]
		args = args[1:]
		switch arg {
		case "-X", "--request":
			method = value
		case "-o", "--output":
			opts.output = value
		case "-H", "--header":
			name, v, ok := strings.Cut(value, ":")
			if !ok {
				return nil, opts, fmt.Errorf("header %q has no colon", value)
			}
			header.Add(name, strings.TrimSpace(v))
		case "-d", "--data", "--data-binary":
			body, err := c.data(value, arg == "--data-binary")
			if err != nil {
				return nil, opts, err
			}
			data = append(data, body)
		default:
			return nil, opts, fmt.Errorf("option %s is not supported here", arg)
		}
	}
	if method == "" {
		method = http.MethodGet
		if data != nil {
			method = http.MethodPost
		}
	}
	if data != nil && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	target, err := c.moved(target)
	if err != nil {
		return nil, opts, err
	}
	req, err := http.NewRequest(method, target, strings.NewReader(strings.Join(data, "&")))
	if err != nil {
		return nil, opts, err
	}
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", "curl/8")
	}
	req.Header = header
	return req, opts, nil
}

// data reads @file as curl does: -d drops line ends, --data-binary keeps them.
func (c curl) data(value string, binary bool) (string, error) {
	file, ok := strings.CutPrefix(value, "@")
	if !ok {
		return value, nil
	}
	text, err := os.ReadFile(c.path(file))
	if err != nil {
		return "", err
	}
	if binary {
		return string(text), nil
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(string(text)), nil
}

// moved replaces a port of the documents with the script's own.
func (c curl) moved(target string) (string, error) {
	if target == "" {
		return "", errors.New("no URL")
	}
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	base, err := strconv.Atoi(c.base)
	port, portErr := strconv.Atoi(u.Port())
	if err != nil || portErr != nil || port < 8000 || port > 9092 {
		return target, nil //nolint:nilerr // an address of another program stays as it is
	}
	u.Host = "127.0.0.1:" + strconv.Itoa(base+port-8000)
	return u.String(), nil
}
