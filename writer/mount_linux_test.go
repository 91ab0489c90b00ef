package writer

import (
	"strconv"
	"syscall"
)

// mountTmpfs makes a file system of so many bytes at dir. Error: what keeps this process from it.
func mountTmpfs(dir string, size int) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.Itoa(size))
}

func unmount(dir string) error { return syscall.Unmount(dir, 0) }
