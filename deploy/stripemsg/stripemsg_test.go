package stripemsg

import (
	"testing"
	"time"
)

// TestSignIsStripes holds the signature against a value computed with another implementation.
func TestSignIsStripes(t *testing.T) {
	body := []byte(`{"id":"evt_lk_0001","object":"event","type":"ping"}`)
	at := time.Date(2026, time.November, 22, 0, 0, 0, 0, time.UTC)
	want := "t=1795305600,v1=7151e3e3951a8dce3331c0d393933280d89cd2b2280ef3dd6b3dfc584f80c2bc"
	if got := Sign("whsec_latchkey_test_secret", body, at); got != want {
		t.Errorf("Sign = %s, want %s", got, want)
	}
}
