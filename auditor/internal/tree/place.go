package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
)

// A Place keeps a second copy of the checkpoint, where whoever can write the log
// cannot write.
type Place interface {
	// Get returns the copy, and fs.ErrNotExist when there is none or it cannot be
	// read by this program at all.
	Get(ctx context.Context) ([]byte, error)
	Put(ctx context.Context, signed []byte) error
}

// ParsePlace reads the address of a second place: http or https, to which the
// checkpoint is PUT and from which it is read back; or a folder, as a path or a
// file: URL, in which it is the file checkpoint.
func ParsePlace(address string, client *http.Client) (Place, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("want an http or https address, or a folder")
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Host == "" || u.User != nil {
			return nil, errors.New("want an address with a host and without credentials")
		}
		return &webPlace{address, client}, nil
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && u.Path != "":
		return &folderPlace{filepath.FromSlash(u.Path)}, nil
	case u.Scheme == "":
		return &folderPlace{address}, nil
	}
	return nil, fmt.Errorf("want an http or https address, or a folder, not a %s address", u.Scheme)
}

type webPlace struct {
	url    string
	client *http.Client
}

func (p *webPlace) Get(ctx context.Context) ([]byte, error) {
	status, answer, err := call(ctx, p.client, http.MethodGet, p.url, nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusOK:
		return answer, nil
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusForbidden, status == http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("GET answers %d: %w", status, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("GET answers %d", status)
}

func (p *webPlace) Put(ctx context.Context, signed []byte) error {
	status, _, err := call(ctx, p.client, http.MethodPut, p.url, signed)
	if err == nil && (status < 200 || status > 299) {
		err = fmt.Errorf("PUT answers %d", status)
	}
	return err
}

type folderPlace struct{ dir string }

func (p *folderPlace) Get(ctx context.Context) (signed []byte, err error) {
	err = p.open(func(f *Folder) (err error) { signed, err = f.Read(ctx, checkpointPath); return err })
	return signed, err
}

func (p *folderPlace) Put(ctx context.Context, signed []byte) error {
	return p.open(func(f *Folder) error { return f.WriteCheckpoint(ctx, signed) })
}

// open opens the folder each time: a volume may be mounted again. A folder that
// is missing must not pass for one without a checkpoint.
func (p *folderPlace) open(do func(*Folder) error) error {
	f, err := OpenFolder(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder %s does not exist; create it", p.dir)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}
