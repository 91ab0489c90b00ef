package system

import "syscall"

// attributes makes the kernel kill the child when its parent's thread ends, so that no child outlives latchkey-dev, not even one
// that was killed by SIGKILL itself. A process group of its own keeps the terminal's ^C from it: latchkey-dev stops it in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
