package store

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// diskName is the layer between SQLite and the operating system that every database on disk goes through.
const diskName = "sentry"

func init() { vfs.Register(diskName, disk{vfs.Find("").(vfs.VFSFilename)}) }

// disk opens files as the default layer does, and mends three things of it:
//
//   - A write that finds no room is an error of its own kind, FULL: nothing was lost, and it may be tried again. The
//     default layer gives the kind of a disk that fails, after which nothing may be believed.
//   - When a new file is synced for the first time, so is the directory that names it. The default layer syncs the file
//     twice.
//   - A write-ahead log that may only be read is opened for reading. The default layer refuses it, and so a reader
//     without the right to write.
type disk struct{ vfs.VFSFilename }

// systemFile is what the files of the default layer can do; all of it has to pass through.
type systemFile interface {
	vfs.FileLockState
	vfs.FileHasMoved
	vfs.FileSizeHint
	vfs.FilePersistWAL
	vfs.FilePowersafeOverwrite
	vfs.FileSharedMemory
	vfs.FileMemoryMapper
}

func (d disk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, got, err := d.VFSFilename.OpenFilename(name, flags)
	if flags&vfs.OPEN_WAL != 0 && (errors.Is(err, fs.ErrPermission) || isReadOnlyFS(err)) {
		f, got, err = d.VFSFilename.OpenFilename(name, flags&^(vfs.OPEN_READWRITE|vfs.OPEN_CREATE)|vfs.OPEN_READONLY)
	}
	system, ok := f.(systemFile)
	if err != nil || !ok {
		return f, got, err
	}
	mended := &diskFile{systemFile: system}
	if name != nil && flags&vfs.OPEN_CREATE != 0 {
		mended.unnamed = filepath.Dir(name.String())
	}
	return mended, got, nil
}

// diskFile is a file of disk. SQLite uses it from one goroutine at a time.
type diskFile struct {
	systemFile
	unnamed string // the directory that is to be synced with the first sync; "" when it was
}

func (f *diskFile) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.systemFile.WriteAt(p, offset)
	return n, orFull(err)
}

func (f *diskFile) Truncate(size int64) error { return orFull(f.systemFile.Truncate(size)) }
func (f *diskFile) SizeHint(size int64) error { return orFull(f.systemFile.SizeHint(size)) }

func (f *diskFile) Sync(flags vfs.SyncFlag) error {
	if err := f.systemFile.Sync(flags); err != nil || f.unnamed == "" {
		return err
	}
	if err := syncDir(f.unnamed); err != nil {
		return vfs.SystemError(err, sqlite3.IOERR_DIR_FSYNC)
	}
	f.unnamed = ""
	return nil
}

// DeviceCharacteristics takes out what this layer does not pass through.
func (f *diskFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return f.systemFile.DeviceCharacteristics() &^ vfs.IOCAP_BATCH_ATOMIC
}

func orFull(err error) error {
	if noRoom(err) {
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return err
}
