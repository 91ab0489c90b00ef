package load

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"

	"github.com/valyala/fasthttp"
)

// signedBytes is what the floor signs for an answer: about what a grace token's claims and header come to.
const signedBytes = 600

// serveFloor serves what the edge is measured against: the least that such an answer can cost on fasthttp. Every answer is size bytes, with sign
// after one P-256 signature; without either it is an empty 304.
func serveFloor(listen string, sign bool, size int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	claims, body := bytes.Repeat([]byte{'c'}, signedBytes), bytes.Repeat([]byte{'b'}, size)
	handler := func(ctx *fasthttp.RequestCtx) {
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
		ctx.SetContentType("application/json")
		ctx.SetBody(body)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	// The address tells the starter that it is ready, and which port it got.
	fmt.Println(l.Addr())
	return fasthttp.Serve(l, handler)
}
