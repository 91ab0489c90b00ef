package herd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/latchkey/latchkey/replication"
)

// A crowd in a process of its own takes no time from who measures beside it, and can be given less of the machine than the writers: edges
// are other machines. Its input is a Config as JSON and then lines of JSON, each an order; each is answered with a line.

type order struct {
	Do string // "lose" or "hold"
	At replication.Revision
}

type answer struct {
	Error     string
	Snapshots int
}

// Serve runs a crowd for Launch in another process until in ends.
func Serve(in io.Reader, out io.Writer) error {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	var cfg Config
	if err := orders.Decode(&cfg); err != nil {
		return fmt.Errorf("read the crowd's config: %w", err)
	}
	h, err := Start(cfg)
	if err != nil {
		return err
	}
	defer h.Stop()
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read an order: %w", err)
		}
		var a answer
		switch o.Do {
		case "lose":
			err = h.Lose()
		case "hold":
			err = recovered(context.Background(), h, o.At)
		default:
			err = fmt.Errorf("no such order: %q", o.Do)
		}
		if err != nil {
			a.Error = err.Error()
		}
		a.Snapshots = h.Snapshots()
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// Process is a crowd in another process. Stop ends it.
type Process struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *json.Decoder
	snapshots int
}

// Launch starts cmd, which must call Serve with its standard input and output.
func Launch(cmd *exec.Cmd, cfg Config) (*Process, error) {
	p := &Process{cmd: cmd}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the crowd %s: %w", strings.Join(cmd.Args, " "), err)
	}
	if err := json.NewEncoder(p.in).Encode(cfg); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start the crowd: %w", err)
	}
	return p, nil
}

func (p *Process) order(o order) error {
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return fmt.Errorf("order the crowd: %w", err)
	}
	var a answer
	if err := p.out.Decode(&a); err != nil {
		return fmt.Errorf("the crowd's answer: %w", err)
	}
	p.snapshots = a.Snapshots
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// Lose takes all data from all edges at once.
func (p *Process) Lose() error { return p.order(order{Do: "lose"}) }

// Holds is Herd.Holds, for as long as edges may take at most; ctx does not end it.
func (p *Process) Holds(_ context.Context, at replication.Revision) error {
	return p.order(order{Do: "hold", At: at})
}

// Snapshots is how many snapshots all edges together had taken over when the last order was done.
func (p *Process) Snapshots() int { return p.snapshots }

// Stop ends the process and waits for it.
func (p *Process) Stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}
