package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// guest is where a writer beyond the founders has its place in the block of ports.
const guest = 4

const (
	// joinWithin is how long a writer may take to get everything and a vote, of which it must keep up for 10 s.
	joinWithin = 40 * time.Second
	// leaveWithin is how long its removal may be refused, while other faults leave no majority.
	leaveWithin = 30 * time.Second
)

// joinAndLeave takes one more writer into the cluster and removes it again, for ever: each has an id of its own.
func joinAndLeave(ctx context.Context, r *run, lot *rand.Rand) error {
	if !r.guest.TryLock() {
		return fmt.Errorf("%w: there is one already", errMoment)
	}
	defer r.guest.Unlock()
	id := fmt.Sprintf("x%d", r.guests.Add(1))
	cmd, err := r.cluster.startGuest(id)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is removed, or killed
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
	}()
	joining, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	joined := false
	for !joined && joining.Err() == nil {
		if _, err = r.cluster.run(joining, id, "join"); err == nil {
			joined = true
		} else if pause(joining, time.Second) != nil {
			break
		}
	}
	if joined {
		r.count("  joined and voted", 1)
		if err := pause(ctx, lasts(lot, 0, 3*time.Second)); err != nil {
			return err
		}
	}
	founder := pick(lot, r.cluster.ids("w"))
	if !await(ctx, leaveWithin, func() bool {
		_, err = r.cluster.run(ctx, founder, "remove", id)
		// One that was never taken in needs no removal.
		return err == nil || !joined && strings.Contains(err.Error(), "There is no member")
	}) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.load.strange(fmt.Sprintf("%s cannot be removed: %v", id, err))
		return err
	}
	if !joined {
		return fmt.Errorf("%w: %s did not get its vote within %s", errMoment, id, joinWithin)
	}
	return nil
}

func canJoin(r *run) error {
	if err := exec.Command(filepath.Join(r.config.Programs, "latchkey-writer"), "join", "--help").Run(); err != nil {
		return errors.New("the programs have no command for it")
	}
	return nil
}

// startGuest runs a writer that is none of the founders. Its configuration is the first founder's, with an id, a folder and addresses of its own.
func (c *Cluster) startGuest(id string) (*exec.Cmd, error) {
	config := filepath.Join(c.dir, "config", id+".yaml")
	if err := c.configureGuest(id, config); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(c.dir, "logs", id+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(c.programs, "latchkey-writer"), "serve", "--config", config)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, attributes()
	c.launch(context.Background(), id, cmd)
	return cmd, cmd.Start()
}

func (c *Cluster) configureGuest(id, path string) error {
	b, err := os.ReadFile(filepath.Join(c.dir, "config", "w1.yaml"))
	if err != nil {
		return err
	}
	var config map[string]any
	if err := yaml.Unmarshal(b, &config); err != nil {
		return err
	}
	address := func(tens int) string { return fmt.Sprintf("127.0.0.1:%d", c.port+10*tens+guest) }
	raft, internal := address(4), address(2)
	node, ok := config["node"].(map[string]any)
	if !ok {
		return errors.New("the first writer's configuration has no node")
	}
	node["id"], node["data_dir"] = id, filepath.Join(c.dir, id)
	node["listen"], node["internal_listen"], node["raft_listen"] = address(0), internal, raft
	node["raft_advertise"], node["internal_advertise"] = c.reach(raft), "http://"+c.reach(internal)
	if nats, ok := config["nats"].(map[string]any); ok {
		nats["listen"], nats["cluster_listen"] = address(3), address(6)
		nats["advertise"], nats["cluster_advertise"] = c.reach(address(3)), c.reach(address(6))
	}
	if b, err = yaml.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
