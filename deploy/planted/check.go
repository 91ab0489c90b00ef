package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// checker is a program that must end well without a fault, and badly with it.
type checker struct {
	name string // as people call it
	// of is the package: of a test, or of a program where test is empty.
	of   string
	test string
	args []string
	// says is what it must print about the fault: an exit code alone could mean anything.
	says *regexp.Regexp
	// processes says that it starts our programs, which must carry the fault too.
	processes bool
}

// key is the same for two checkers that are the same without a fault.
func (c checker) key() string { return strings.Join(append([]string{c.of, c.test}, c.args...), " ") }

// checkWithin is how long a checker may take.
const checkWithin = 5 * time.Minute

// bench is where everything is that was built with the tag.
type bench struct {
	dir  string
	said io.Writer
}

func (b *bench) build(ctx context.Context, chosen []plantedFault) (err error) {
	if b.dir, err = os.MkdirTemp("", "latchkey-planted-"); err != nil {
		return err
	}
	var tests, programs []string
	for _, f := range chosen {
		for _, c := range f.by {
			if c.test != "" {
				tests = append(tests, "./"+c.of)
			} else {
				programs = append(programs, "./"+c.of)
			}
			if c.processes {
				programs = append(programs, "./writer/cmd/latchkey-writer", "./edge/cmd/latchkey-edge")
			}
		}
	}
	for _, build := range []struct {
		command  []string
		packages []string
	}{
		{[]string{"build", "-tags", "faults", "-o", b.dir + "/"}, programs},
		{[]string{"test", "-tags", "faults", "-c", "-o", b.dir + "/"}, tests},
	} {
		slices.Sort(build.packages)
		packages := slices.Compact(build.packages)
		if len(packages) == 0 {
			continue
		}
		cmd := exec.CommandContext(ctx, "go", append(build.command, packages...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.remove()
			return fmt.Errorf("build %v: %w\n%s", packages, err, out)
		}
	}
	return nil
}

func (b *bench) remove() { os.RemoveAll(b.dir) }

// passes reports how the checker ends without a fault: nil is well.
func (b *bench) passes(ctx context.Context, c checker) (text string, err error) {
	return b.start(ctx, "", c)
}

var errPassed = errors.New("it passed")

// catches returns nil when the checker fails, and says why, where the fault is planted.
func (b *bench) catches(ctx context.Context, fault string, c checker) (text string, err error) {
	text, err = b.start(ctx, fault, c)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return text, errPassed
	case !errors.As(err, &exit) || exit.ExitCode() != 1:
		return text, fmt.Errorf("it did not judge: %w", err)
	case !c.says.MatchString(text):
		return text, fmt.Errorf("it failed and does not say %q", c.says)
	}
	return text, nil
}

func (b *bench) start(ctx context.Context, fault string, c checker) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	program, args := filepath.Join(b.dir, filepath.Base(c.of)), slices.Clone(c.args)
	if c.test != "" {
		program += ".test"
		args = append(args, "-test.count=1", "-test.run=^"+c.test+"$")
	}
	cmd := exec.CommandContext(ctx, program, args...)
	if c.test != "" {
		cmd.Dir = c.of // where go test would start it
	}
	if c.processes && c.test == "" {
		cmd.Args = append(cmd.Args, "--programs", b.dir, "--dir", filepath.Join(b.dir, "nodes-"+fault))
		if fault != "" {
			cmd.Args = append(cmd.Args, "--plant", fault)
		}
	}
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&text, b.said), io.MultiWriter(&text, b.said)
	cmd.Env = append(os.Environ(), "LATCHKEY_FAULT_PLANT="+fault, "E2E_BUILD=-tags=faults")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with what it starts
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	return text.String(), err
}

// end is the last part of what a checker printed.
func end(text string) string {
	const most = 4000
	return text[max(0, len(text)-most):]
}
