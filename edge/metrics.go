package edge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"github.com/latchkey/latchkey/pkg/problem"
)

// metrics are what the edge counts. Labels come from closed lists.
type metrics struct {
	signed, reused, unsigned, notModified prometheus.Counter
	problems                              *prometheus.CounterVec
	bySlug                                map[problem.Slug]prometheus.Counter // of problems
	snapshots, streamed                   prometheus.Counter
	streamsEnded, relays, signIns         *prometheus.CounterVec
	limitedAddress, limitedAccount        prometheus.Counter
	limitedBegin, limitedGuess            prometheus.Counter
	duration                              prometheus.Histogram
	handler                               fasthttp.RequestHandler
}

func newMetrics(reg *prometheus.Registry, e *Edge) *metrics {
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_edge_checks_total", Help: "Checks answered, by how: a new token, one handed out again, none, or not modified.",
	}, []string{"outcome"})
	m := &metrics{
		bySlug: map[problem.Slug]prometheus.Counter{},
		signed: checks.WithLabelValues("signed"), reused: checks.WithLabelValues("reused"),
		unsigned: checks.WithLabelValues("unsigned"), notModified: checks.WithLabelValues("not_modified"),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_edge_problems_total", Help: "Requests answered with a problem, by its type."}, []string{"type"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "latchkey_edge_check_duration_seconds", Help: "Time from the request's header read to the answer made.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5, 20},
		}),
		snapshots:    prometheus.NewCounter(prometheus.CounterOpts{Name: "latchkey_edge_replica_snapshots_total", Help: "Times that the replica was built anew from a writer's snapshot."}),
		streamed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "latchkey_edge_stream_events_total", Help: "Answers handed to streams."}),
		streamsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_edge_streams_ended_total", Help: "Streams that ended, by why."}, []string{"reason"}),
		relays:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_edge_relays_total", Help: "Requests of apps that were to be passed on to a writer, by what became of them."}, []string{"outcome"}),
		handler:      fasthttpadaptor.NewFastHTTPHandler(promhttp.HandlerFor(reg, promhttp.HandlerOpts{})),
	}
	limited := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_edge_limited_requests_total", Help: "Requests refused because their address or account asked too often, or their address for new sessions or with wrong codes."}, []string{"by"})
	m.limitedAddress, m.limitedAccount, m.limitedBegin, m.limitedGuess = limited.WithLabelValues("address"), limited.WithLabelValues("account"), limited.WithLabelValues("session"), limited.WithLabelValues("code")
	for _, k := range problem.Kinds() {
		m.bySlug[k.Slug] = m.problems.WithLabelValues(string(k.Slug))
	}
	for _, o := range []string{relayAnswered, relayElsewhere, relayUnavailable, relayBusy} {
		m.relays.WithLabelValues(o)
	}
	m.signIns = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_edge_sign_ins_total", Help: "Sign-in tokens of identity providers, by what became of them; those known from a moment ago are not counted."}, []string{"outcome"})
	for _, outcome := range []string{signInVerified, signInRefused, signInUnavailable, signInEnrolled} {
		m.signIns.WithLabelValues(outcome)
	}
	for _, reason := range streamEnds {
		m.streamsEnded.WithLabelValues(reason)
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), checks, limited, m.problems, m.duration, m.snapshots, m.streamed, m.streamsEnded, m.signIns, m.relays,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "latchkey_edge_replica_damages_total", Help: "Times that the replica's file was given up because it was found damaged."},
			func() float64 { return float64(e.replica.Damages()) }),
		gauge("latchkey_edge_replica_lag_seconds", "Age of as_of; -1 without data.", func() float64 { return float64(e.Status().LagSeconds) }),
		gauge("latchkey_edge_replica_epoch", "Epoch of the replica; 0 without data.", func() float64 { return float64(e.replica.Head().Epoch) }),
		gauge("latchkey_edge_replica_revision", "Revision of the replica within its epoch.", func() float64 { return float64(e.replica.Head().N) }),
		gauge("latchkey_edge_replica_proven", "1 when the whole file has been read and agrees with the state hash.", func() float64 { return number(e.replica.Proven()) }),
		gauge("latchkey_edge_nats_connected", "1 while a NATS server answers; 0 also when NATS is off.", func() float64 { return number(e.nats != nil && e.nats.Connected()) }),
		gauge("latchkey_edge_certificate_remaining_seconds", "Time until the first of the edge's certificates ends; 0 when one is missing or over.", func() float64 { return e.certifiedFor().Seconds() }),
		gauge("latchkey_edge_disk_free_bytes", "Bytes that may still be written to the file system of the data folder.", func() float64 { return float64(e.room.Status().FreeBytes) }),
		gauge("latchkey_edge_disk_low", "1 while the disk counts as nearly full and nothing new is applied.", func() float64 { return number(e.room.Status().Low) }),
		gauge("latchkey_edge_streams", "Open streams of entitlements.", func() float64 { return float64(e.streams.open.Load()) }),
		gauge("latchkey_edge_open_connections", "Connections of apps and of whoever else reaches the public listener.", func() float64 { return float64(e.server.GetOpenConnectionsCount()) }),
		gauge("latchkey_edge_ready", "1 when /readyz says so.", func() float64 { return number(len(e.unready()) == 0) }),
	)
	ends := func(certificate string, at func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latchkey_edge_certificate_expiry_timestamp_seconds", ConstLabels: prometheus.Labels{"certificate": certificate},
			Help: "When a certificate of this edge ends, in Unix seconds; 0 while an environment has none, infinite without TLS."}, at))
	}
	ends("tls", e.identityEnds)
	ends("https", e.httpsEnds)
	for _, k := range e.keys {
		ends(string(k.env), k.ends)
	}
	return m
}

// What became of a sign-in token.
const (
	signInVerified    = "verified"
	signInRefused     = "refused"
	signInUnavailable = "unavailable" // it is not known whether it is good, or no writer made the account
	signInEnrolled    = "enrolled"    // a writer made the account, or had it
)

func (m *metrics) problem(slug problem.Slug) {
	if c := m.bySlug[slug]; c != nil {
		c.Inc()
		return
	}
	m.problems.WithLabelValues(string(slug)).Inc()
}

func (m *metrics) streamEnded(why streamEnd) { m.streamsEnded.WithLabelValues(streamEnds[why]).Inc() }

func number(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}
