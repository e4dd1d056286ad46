package ledger

import (
	"errors"
	"os"
)

// A Reader reads the files of a log as one. It takes no lock: the auditor may
// append and begin segments meanwhile.
type Reader struct {
	segments
	path string
}

// OpenReader opens the log at path.
func OpenReader(path string) (*Reader, error) {
	r := &Reader{path: path}
	if _, err := r.Size(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Size is the length of the log by now: of all its files together.
//
// The newest file is opened before the sealed ones are listed. If it was sealed
// in between, it is among them and not read twice.
func (r *Reader) Size() (int64, error) {
	newest, err := os.Open(r.path)
	if err != nil {
		return 0, err
	}
	names, err := sealedNames(r.path)
	if err != nil {
		return 0, errors.Join(err, newest.Close())
	}
	list, size, err := r.openAll(append(names, r.path), newest)
	r.mu.Lock()
	old := r.list
	r.list = list
	r.mu.Unlock()
	for _, s := range old {
		err = errors.Join(err, s.file.Close())
	}
	return size, err
}

func (r *Reader) openAll(names []string, newest *os.File) (list []segment, size int64, err error) {
	for i, name := range names {
		f := newest
		if i < len(names)-1 {
			if f, err = os.Open(name); err != nil {
				return list, 0, errors.Join(err, newest.Close())
			}
		} else if len(list) > 0 && sameFile(list[len(list)-1].file.(sealedFile).File, newest) {
			return list, size, newest.Close()
		}
		list = append(list, segment{name, size, sealedFile{f}})
		info, err := f.Stat()
		if err != nil {
			return list, 0, err
		}
		size += info.Size()
	}
	return list, size, nil
}

// At returns the file that holds an offset of the log, and where in it.
func (r *Reader) At(off int64) (name string, at int64) {
	s, _ := r.at(off)
	return s.name, off - s.base
}

// Close closes the files.
func (r *Reader) Close() error { return r.close() }
