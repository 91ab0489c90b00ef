package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// attributes makes the kernel kill the child with its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// tmpfsBytes is how much the small disk holds before it is made full: memory is used only for what is written.
const tmpfsBytes = 4 << 30

// mount makes the node's folder a file system of its own, in memory.
func (c *Cluster) mount(id string) error {
	dir := filepath.Join(c.dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", tmpfsBytes)); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	c.mounted = append(c.mounted, dir)
	return nil
}

// resize sets how much the file system of the folder holds.
func resize(dir string, bytes int64) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", bytes))
}

// used is how much the file system of the folder holds now.
func used(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize, nil
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

// canMount tells why a file system cannot be mounted here, or nil.
func canMount() error {
	dir, err := os.MkdirTemp("", "latchkey-chaos-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=65536"); err != nil {
		return errors.New("mounting a tmpfs needs root")
	}
	return unmount(dir)
}
