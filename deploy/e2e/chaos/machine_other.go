//go:build !linux

package chaos

import (
	"errors"
	"syscall"
)

var errLinux = errors.New("only Linux has what this takes")

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

const tmpfsBytes = 0

func (c *Cluster) mount(string) error { return errLinux }
func resize(string, int64) error      { return errLinux }
func used(string) (int64, error)      { return 0, errLinux }
func unmount(string) error            { return nil }
func canMount() error                 { return errLinux }
