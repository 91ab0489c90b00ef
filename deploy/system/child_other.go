//go:build !linux

package system

import "syscall"

// attributes: only Linux ends children with their parent; elsewhere a latchkey-dev that is killed by SIGKILL leaves them running.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
