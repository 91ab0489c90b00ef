package load

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/valyala/fasthttp"
)

// signedBytes is what the floor signs for an answer: about what a grace token's claims and header come to.
const signedBytes = 600

// serveFloor serves what the edge is measured against: the least that such an answer can cost on fasthttp. Every answer is size bytes, with sign
// after one P-256 signature; without either it is an empty 304. With a certificate it is served over TLS 1.3.
// With refusal, who asks as Strangers does gets a bare 401 of so many bytes, and no signature.
func serveFloor(listen, cert, certKey string, sign bool, size, status, refusal int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	claims, body := bytes.Repeat([]byte{'c'}, signedBytes), bytes.Repeat([]byte{'b'}, size)
	refused := bytes.Repeat([]byte{'r'}, refusal)
	handler := func(ctx *fasthttp.RequestCtx) {
		if refusal > 0 && bytes.Contains(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization), stranger) {
			ctx.SetStatusCode(fasthttp.StatusUnauthorized)
			ctx.SetContentType("application/json")
			ctx.SetBody(refused)
			return
		}
		if !sign && size == 0 {
			ctx.SetStatusCode(fasthttp.StatusNotModified)
			return
		}
		if sign {
			digest := sha256.Sum256(claims)
			if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
				ctx.Error(err.Error(), fasthttp.StatusInternalServerError)
				return
			}
		}
		ctx.SetStatusCode(status)
		ctx.SetContentType("application/json")
		ctx.SetBody(body)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, certKey)
		if err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}})
	}
	// The address tells the starter that it is ready, and which port it got.
	fmt.Println(l.Addr())
	return fasthttp.Serve(l, handler)
}
