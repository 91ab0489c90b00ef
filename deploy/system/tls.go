package system

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// certificateLife is how long a node's certificate counts. Every start makes new ones.
const certificateLife = 90 * 24 * time.Hour

func (s *System) tlsDir() string { return filepath.Join(s.config.Dir, "tls") }

// scheme is that of addresses between the nodes.
func (s *System) scheme(plain, secure string) string {
	if s.config.TLS {
		return secure
	}
	return plain
}

// secure adds a section tls to a node's configuration, and makes what it names: the authority at the first start, the node's key and certificate
// at each.
func (s *System) secure(conf settings, node mutual.Peer) error {
	if !s.config.TLS {
		return nil
	}
	dir := s.tlsDir()
	if err := mutual.MakeAuthority(dir, "latchkey-dev", time.Now()); err != nil && !errors.Is(err, mutual.ErrExists) {
		return fmt.Errorf("authority: %w", err)
	}
	cert, key := mutual.NodeFiles(node.Node)
	cert, key = filepath.Join(dir, cert), filepath.Join(dir, key)
	for _, path := range []string{cert, key} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("earlier certificate: %w", err)
		}
	}
	if err := mutual.MakeNode(dir, dir, node, certificateLife, time.Now()); err != nil {
		return fmt.Errorf("certificate of %s: %w", node.Node, err)
	}
	conf["tls"] = settings{"ca_file": filepath.Join(dir, mutual.AuthorityCertFile), "cert_file": cert, "key_file": key}
	return nil
}
