package writer

import (
	"bytes"
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// An app says how its device can be written to, so that a silent push can tell it to ask again. A push token is a secret: it is sealed before anything is
// proposed, and the device itself stands nowhere.

const (
	devicesRoute = "POST /v1/devices"
	// maxPushTokenBytes is more than APNs and FCM make: 64 digits and some 200 characters.
	maxPushTokenBytes = 4096
	// deviceFresh is for how long the same token again costs no entry of the log: apps say it at every start.
	deviceFresh = 24 * time.Hour
)

// routeDevices lays the route of apps. It is the same on the listener for edges, which pass it on.
func (w *Writer) routeDevices(handle func(pattern string, h handler)) {
	handle(devicesRoute, w.forAccount((*apiCall).putDevice))
}

// devicePlace is for what a device's push token is sealed.
func devicePlace(id entitlement.AccountID) string { return "device\x00" + string(id) }

func (c *apiCall) putDevice(app entitlement.AccountID) (answer, error) {
	var req struct {
		Account  entitlement.AccountID `json:"account_id"`
		Device   string                `json:"device_id"`
		Platform string                `json:"platform"`
		Token    string                `json:"push_token"`
	}
	if err := c.decodeFor(app, &req); err != nil {
		return answer{}, err
	}
	account, err := accountOf(app, req.Account)
	if err != nil {
		return answer{}, err
	}
	switch {
	case req.Device == "":
		return answer{}, wrong("device_id", "is missing")
	case req.Platform != store.PlatformAPNS && req.Platform != store.PlatformFCM:
		return answer{}, wrong("platform", "want %s or %s", store.PlatformAPNS, store.PlatformFCM)
	case req.Token == "" || len(req.Token) > maxPushTokenBytes || strings.ContainsFunc(req.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return answer{}, wrong("push_token", "want 1 to %d printable ASCII characters", maxPushTokenBytes)
	}
	if err := checkDevice(req.Device); err != nil {
		return answer{}, err
	}
	s, err := c.sealing()
	if err != nil {
		return answer{}, err
	}
	index := s.mac(c.env, "device", []byte(string(account)+"\x00"+req.Device))
	if revision, known, err := c.knownDevice(s, account, index, req.Platform, req.Token); err != nil || known {
		return answer{status: http.StatusOK, body: written{account, revision}}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypePutDevice, store.PutDevice{Account: account, Index: index, Platform: req.Platform,
		Sealed: s.seal(c.env, devicePlace(account), req.Token), Idempotency: c.veiled(s, key)})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: written{result.Account, result.Revision.String()}}, nil
}

// knownDevice reports whether this node knows that the device has this token, and has heard of it lately.
func (c *apiCall) knownDevice(s *sealer, account entitlement.AccountID, index []byte, platform, token string) (revision string, known bool, err error) {
	err = c.store.View(func(reader *store.Reader) error {
		devices, err := reader.Devices(c.env, account)
		known = slices.ContainsFunc(devices, func(d store.Device) bool {
			if !bytes.Equal(d.Index, index) || d.Platform != platform || c.now().Unix()-d.SeenAt >= int64(deviceFresh/time.Second) {
				return false
			}
			present, err := s.open(c.env, devicePlace(account), d.Sealed)
			return err == nil && present == token
		})
		revision = reader.Position().Revision().String()
		return err
	})
	return revision, known, err
}

// deviceShown is a device of an account. What is known of it beyond is sealed.
type deviceShown struct {
	Platform string `json:"platform"`
	SeenAt   string `json:"seen_at"` // when its app said so last, to a day
}

// devices lists the devices of accounts that are one, the one that was heard of last first.
func (c *apiCall) devices(reader *store.Reader, accounts []entitlement.AccountID) ([]deviceShown, error) {
	var all []store.Device
	for _, id := range accounts {
		devices, err := reader.Devices(c.env, id)
		if err != nil {
			return nil, err
		}
		all = append(all, devices...)
	}
	slices.SortStableFunc(all, func(a, b store.Device) int { return cmp.Compare(b.SeenAt, a.SeenAt) })
	shown := []deviceShown{}
	for _, d := range all {
		shown = append(shown, deviceShown{d.Platform, formatTime(d.SeenAt)})
	}
	return shown, nil
}
