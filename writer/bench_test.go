package writer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkWebhook takes webhooks over HTTP at all of three writers, 64 at a time, each for an account of its own: with a CPU profile
// it says what a webhook costs in which part.
func BenchmarkWebhook(b *testing.B) {
	writers := startCluster(b, 3)
	accounts := make([]string, 2000)
	for i := range accounts {
		accounts[i] = writers[0].account()
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			body := event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), accounts[int(i)%len(accounts)], "price_pro"))
			r, err := sendWith(client, "POST", writers[i%3].url+"/v1/webhooks/sandbox/stripe", string(body), signed(body, stripeSecret, time.Now()))
			if err != nil || r.status != http.StatusOK {
				b.Errorf("webhook = %d %s, %v", r.status, r.text, err)
			}
		}
	})
}

// BenchmarkAccountLookup asks the leader for accounts with a subscription: with a CPU profile it says what a look-up costs in which part.
func BenchmarkAccountLookup(b *testing.B) {
	w := startCluster(b, 1)[0]
	accounts := make([]string, 200)
	for i := range accounts {
		accounts[i] = w.account()
		w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), accounts[i], "price_pro")))
	}
	var n atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", w.PublicAddr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		for pb.Next() {
			fmt.Fprintf(c, "GET /v1/accounts/%s HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer %s\r\n\r\n", accounts[int(n.Add(1))%len(accounts)], serverKey)
			res, err := http.ReadResponse(in, nil)
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
			}
			if err != nil || res.StatusCode != http.StatusOK {
				b.Errorf("look-up: %+v, %v", res, err)
				return
			}
		}
	})
}
