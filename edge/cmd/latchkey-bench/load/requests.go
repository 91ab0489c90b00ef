package load

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Checks asks for the entitlements of accounts in turn, by their session tokens. With fresh each request carries a nonce of its own, so
// that no signature can be used twice.
func Checks(host string, sessions []string, fresh bool) Source {
	tails := make([][]byte, len(sessions))
	for i, session := range sessions {
		tails[i] = []byte(" HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + session + "\r\n\r\n")
	}
	return func(dst []byte, connection, n int) []byte {
		dst = append(dst, "GET /v1/entitlements"...)
		if fresh {
			dst = append(dst, "?nonce="...)
			dst = strconv.AppendInt(dst, int64(connection), 36)
			dst = append(dst, '-')
			dst = strconv.AppendInt(dst, int64(n), 36)
		}
		return append(dst, tails[(connection+n)%len(tails)]...)
	}
}

// stranger is what the credentials of Strangers contain.
var stranger = []byte(".stranger-")

// Strangers asks as somebody does whose credential is worth nothing, another one each time.
func Strangers(host string) Source {
	return func(dst []byte, connection, n int) []byte {
		dst = append(dst, "GET /v1/entitlements HTTP/1.1\r\nHost: "...)
		dst = append(append(dst, host...), "\r\nAuthorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImxhdGNoa2V5LXNlc3Npb24rand0Iiwia2lkIjoieCJ9.e30"...)
		dst = append(dst, stranger...)
		dst = strconv.AppendInt(dst, int64(connection), 36)
		dst = append(dst, '-')
		dst = strconv.AppendInt(dst, int64(n), 36)
		return append(dst, "\r\n\r\n"...)
	}
}

// Revalidations asks again for what the client holds already, by its ETag.
func Revalidations(host, session, etag string) Source {
	request := []byte("GET /v1/entitlements HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + session + "\r\nIf-None-Match: " + etag + "\r\n\r\n")
	return func(dst []byte, _, _ int) []byte { return append(dst, request...) }
}

// spacing sets the connections apart, so that they do not post for the same accounts at the same time.
const spacing = 47

// Webhooks posts subscriptions of accounts in turn as Stripe does, each event and subscription a new one. run makes the ids differ from those
// of other runs.
func Webhooks(host, path, secret, run string, accounts []string) Source {
	live := strings.Contains(path, "/production/")
	return func(dst []byte, connection, n int) []byte {
		now := time.Now().Unix()
		body := fmt.Appendf(nil, `{"id":"evt_%[1]s%[2]dx%[3]d","object":"event","api_version":"2023-10-16","created":%[4]d,"type":"customer.subscription.created","livemode":%[7]t,`+
			`"data":{"object":{"id":"sub_%[1]s%[2]dx%[3]d","object":"subscription","customer":"cus_%[1]s%[2]dx%[3]d","status":"active","created":%[4]d,"start_date":%[4]d,`+
			`"current_period_start":%[4]d,"current_period_end":%[5]d,"cancel_at_period_end":false,"livemode":%[7]t,"metadata":{"account_id":"%[6]s"},`+
			`"items":{"object":"list","has_more":false,"data":[{"id":"si_%[1]s%[2]dx%[3]d","object":"subscription_item","quantity":1,"price":{"id":"price_pro_monthly","object":"price",`+
			`"product":"prod_pro","type":"recurring","unit_amount":999,"currency":"eur","recurring":{"interval":"month","interval_count":1}}}]}}}}`,
			run, connection, n, now, now+30*24*3600, accounts[(connection*spacing+n)%len(accounts)], live)
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "%d.", now)
		mac.Write(body)
		dst = fmt.Appendf(dst, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nStripe-Signature: t=%d,v1=%s\r\nContent-Length: %d\r\n\r\n",
			path, host, now, hex.EncodeToString(mac.Sum(nil)), len(body))
		return append(dst, body...)
	}
}
