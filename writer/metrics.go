package writer

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// The outcomes of a webhook beside those of the store.
const (
	outcomeDuplicate    = "duplicate"
	outcomeSignature    = "invalid_signature"
	outcomeStale        = "stale_signature"
	outcomeBodyTooLarge = "body_too_large"
	outcomeInvalid      = "invalid_request"
	outcomeUnavailable  = "unavailable"
	outcomeError        = "error"
)

var webhookOutcomes = []string{string(store.Recorded), string(store.Unhandled), string(store.Unreadable), string(store.Conflicting),
	string(store.WrongEnvironment), string(store.TooLarge), outcomeDuplicate, outcomeSignature, outcomeStale, outcomeBodyTooLarge,
	outcomeInvalid, outcomeUnavailable, outcomeError}

// metrics is everything that /metrics shows of this package. All labels come from closed lists, and every series stands at zero from
// the start, so that an alarm on a rate sees the first occurrence.
type metrics struct {
	registry *prometheus.Registry

	requests        *prometheus.CounterVec
	requestSeconds  *prometheus.HistogramVec
	webhooks        *prometheus.CounterVec
	webhookSeconds  prometheus.Histogram
	proposals       *prometheus.CounterVec
	proposalSeconds prometheus.Histogram
	readFailures    prometheus.Counter
	credentials     *prometheus.CounterVec
	heads           *prometheus.CounterVec
	pulls           *prometheus.CounterVec
	snapshots       prometheus.Counter
	certificates    *prometheus.CounterVec
	sessionsIssued  *prometheus.CounterVec
	nats            *prometheus.CounterVec
	providerPulls   *prometheus.CounterVec
	unmapped        *prometheus.CounterVec
	soldTwice       *prometheus.CounterVec
	doubles         *prometheus.GaugeVec
	unclaimedAlarms *prometheus.CounterVec
	histories       *prometheus.CounterVec
	missed          *prometheus.CounterVec
	handOvers       *prometheus.CounterVec

	acknowledgements *prometheus.CounterVec
	waited           *prometheus.CounterVec
	eventToRecord    *prometheus.HistogramVec
	receipts         *prometheus.CounterVec
	intents          *prometheus.CounterVec
	receiptSeconds   prometheus.Histogram
	codes            *prometheus.CounterVec
	passedOn         *prometheus.CounterVec
}

// The ways in which what a provider knows came to be recorded.
const (
	recordedByWebhook = "webhook" // the message proved it
	recordedByPull    = "pull"    // the message left it open, and the provider was asked
)

// latencyBuckets run from what loopback takes to what a provider waits.
var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// eventBuckets run from the whole seconds in which providers tell their times to the day after which an outage shows.
var eventBuckets = []float64{1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}

func newMetrics(w *Writer) *metrics {
	name := func(s string) string { return prometheus.BuildFQName("latchkey", "writer", s) }
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, labels)
	}
	histogram := func(n, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name(n), Help: help, Buckets: latencyBuckets}
	}
	m := &metrics{
		registry:        prometheus.NewRegistry(),
		requests:        counter("http_requests_total", "Requests by listener, route and class of status.", "listener", "route", "status"),
		requestSeconds:  prometheus.NewHistogramVec(histogram("http_request_duration_seconds", "Time from request to answer, by listener."), []string{"listener"}),
		webhooks:        counter("webhooks_total", "Messages of providers, by what became of them.", "provider", "outcome"),
		webhookSeconds:  prometheus.NewHistogram(histogram("webhook_duration_seconds", "Time from a webhook's header to its answer.")),
		proposals:       counter("proposals_total", "Commands that this node proposed or passed on, by outcome.", "outcome"),
		proposalSeconds: prometheus.NewHistogram(histogram("proposal_duration_seconds", "Time until a command was committed, with all tries.")),
		readFailures:    prometheus.NewCounter(prometheus.CounterOpts{Name: name("read_failures_total"), Help: "Reads that found no leader in time."}),
		credentials:     counter("credentials_refused_total", "Requests with a missing, unknown, revoked or insufficient key.", "reason"),
		heads:           counter("heads_total", "Heads signed by this leader or fetched from it.", "outcome"),
		pulls:           counter("pulls_total", "Answers to edges that pull changes.", "outcome"),
		snapshots:       prometheus.NewCounter(prometheus.CounterOpts{Name: name("edge_snapshots_total"), Help: "Snapshots built for edges."}),
		certificates:    counter("edge_certificates_total", "Certificates asked for by edges.", "outcome"),
		sessionsIssued:  counter("sessions_total", "Session tokens issued.", "environment"),
		nats:            counter("nats_messages_total", "Batches and heads for the edges over NATS. What could not be sent is pulled.", "outcome"),
		providerPulls:   counter("provider_pulls_total", "Objects that this leader asked providers for, by what became of the answer.", "provider", "outcome"),
	}
	m.handOvers = counter("hand_overs_total", "Times that this leader handed the lead over because another writer is better for it.", "reason")
	m.acknowledgements = counter("acknowledgements_total", "Attempts of this leader to tell a provider that a sale is delivered.", "outcome")
	m.registry.MustRegister(m.handOvers, m.acknowledgements)
	zero(m.acknowledgements, acknowledgeTold, acknowledgeFailed, acknowledgeWaits, acknowledgeOverdue)
	zero(m.handOvers, reasonClock, reasonDisk)
	m.waited = counter("waiting_messages_total", "Messages of providers that may not send again, by what became of them on this node's disk.", "outcome")
	m.registry.MustRegister(m.waited, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("waiting_messages"), Help: "Messages on this node's disk that no leader took yet."},
		func() float64 { return float64(w.waiting.length()) }))
	zero(m.waited, waitingOutcomes...)
	m.unmapped = counter("unmapped_products_total", "Products in recorded messages that the catalog does not know.", "provider")
	m.eventToRecord = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("provider_event_to_record_seconds"), Buckets: eventBuckets,
		Help: "Seconds from a provider's event until what it led to was recorded."}, []string{"provider", "by"})
	m.registry.MustRegister(m.eventToRecord)
	m.receipts = counter("receipts_total", "Receipts that apps and backends showed, by what became of them.", "provider", "outcome")
	for _, p := range receiptProviders {
		for _, o := range receiptOutcomes {
			m.receipts.WithLabelValues(string(p), o)
		}
	}
	m.intents = counter("intents_total", "Answers to whether a product may be sold, by what was said.", "outcome")
	for _, o := range intentOutcomes {
		m.intents.WithLabelValues(o)
	}
	m.codes = counter("codes_total", "Redemption codes, by what became of them and of who tried one.", "outcome")
	zero(m.codes, codeOutcomes...)
	m.passedOn = counter("grants_passed_on_total", "Grants passed on to Adapty, by what became of them.", "outcome")
	zero(m.passedOn, passOutcomes...)
	m.receiptSeconds = prometheus.NewHistogram(histogram("receipts_duration_seconds", "Time that the receipts of one request took, providers asked included."))
	m.registry.MustRegister(m.receipts, m.receiptSeconds, m.intents, m.codes, m.passedOn)
	m.histories = counter("history_reads_total", "Times that this leader read what a provider says to have sent.", "provider", "outcome")
	m.missed = counter("history_messages_total", "Messages in what a provider says to have sent, by what became of them.", "provider", "outcome")
	m.registry.MustRegister(m.histories, m.missed)
	for _, p := range historyKeepers {
		for _, o := range []string{historyRead, historyFailed} {
			m.histories.WithLabelValues(string(p), o)
		}
		for _, o := range []string{historyKnown, historyMissed, historyForged} {
			m.missed.WithLabelValues(string(p), o)
		}
	}
	m.soldTwice = counter("sold_twice_total", "Messages after which one account pays twice for the same thing: two subscriptions of a group, or sales by two providers.", "environment")
	m.unclaimedAlarms = counter("unclaimed_alarms_total", "Payments that have waited for an account for 10 minutes.", "environment")
	m.doubles = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("doubled_accounts"), Help: "Accounts that have something twice, as this leader counted last."}, []string{"environment", "kind"})
	for _, env := range entitlement.Environments {
		for _, kind := range doubleKinds {
			m.doubles.WithLabelValues(string(env), string(kind))
		}
		m.soldTwice.WithLabelValues(string(env))
		m.unclaimedAlarms.WithLabelValues(string(env))
	}
	m.registry.MustRegister(m.soldTwice, m.doubles, m.unclaimedAlarms, m.unmapped, m.providerPulls, m.requests, m.requestSeconds, m.webhooks, m.webhookSeconds, m.proposals, m.proposalSeconds, m.readFailures,
		m.credentials, m.heads, m.pulls, m.snapshots, m.certificates, m.sessionsIssued, m.nats,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, p := range entitlement.Providers {
		m.unmapped.WithLabelValues(string(p))
		m.eventToRecord.WithLabelValues(string(p), recordedByWebhook)
		m.eventToRecord.WithLabelValues(string(p), recordedByPull)
		for _, o := range webhookOutcomes {
			m.webhooks.WithLabelValues(string(p), o)
		}
	}
	zero(m.proposals, "committed", "unavailable", "refused")
	zero(m.credentials, credentialMissing, credentialUnknown, credentialRevoked, credentialScope)
	zero(m.heads, "signed", "fetched", "failed")
	zero(m.pulls, "changes", "empty", "below_floor", "other_history", "busy")
	zero(m.certificates, "issued", "refused")
	zero(m.nats, natsSent, natsFailed)
	for _, p := range entitlement.Providers {
		for _, o := range pullOutcomes {
			m.providerPulls.WithLabelValues(string(p), o)
		}
	}
	for _, env := range entitlement.Environments {
		zero(m.sessionsIssued, string(env))
		label := prometheus.Labels{"environment": string(env)}
		m.registry.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("unclaimed_purchases"), Help: "Payments without an account, up to 10,000.", ConstLabels: label},
				func() float64 { return float64(len(w.unclaimed(env))) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("unclaimed_oldest_seconds"), Help: "For how long the oldest payment without an account has waited whose access is not long over.", ConstLabels: label},
				func() float64 { return float64(w.oldestUnclaimed(env)) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("codes_owed"), Help: "Purchases whose buyer waits for a redemption code, up to 10,000.", ConstLabels: label},
				func() float64 { return w.countOwedCodes(env) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("grants_owed"), Help: "Accounts whose grants are to be passed on to Adapty, up to 10,000.", ConstLabels: label},
				func() float64 { return w.countOwedGrants(env) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("doubtful_purchases"), Help: "Purchases whose provider should be asked, up to 10,000.", ConstLabels: label},
				func() float64 { return w.countPulls(env) }))
	}
	for _, c := range []string{certificateTLS, certificateIssuer} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("certificate_expiry_timestamp_seconds"), ConstLabels: prometheus.Labels{"certificate": c},
			Help: "When a certificate ends that an operator renews, in Unix seconds; infinite without one."}, func() float64 { return w.certificateEnds(c) }))
	}
	for _, l := range []string{listenerPublic, listenerInternal, listenerOperator} {
		m.route(l, "")
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name("head_age_seconds"),
		Help: "Seconds since the as_of of the newest head that this node holds; -1 before the first."}, w.headAge))
	for n, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"clock_offset_seconds": {"By how much a majority of writers is ahead of this one's clock; 0 while that cannot be told.", func() float64 { return w.clock.line.Load().deviation.Seconds() }},
		"clock_believed":       {"1 while commands and heads may be dated by this writer's clock.", func() float64 { return number(w.clock.believed() == nil) }},
		"disk_free_bytes":      {"Bytes that may still be written to the file system of the data folder.", func() float64 { return float64(w.disk.Status().FreeBytes) }},
		"disk_reserve_bytes":   {"Free bytes below which the disk counts as nearly full.", func() float64 { return float64(w.disk.Status().ReserveBytes) }},
		"disk_low":             {"1 while the disk counts as nearly full.", func() float64 { return number(w.disk.Status().Low) }},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name(n), Help: g.help}, g.value))
	}
	return m
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func zero(v *prometheus.CounterVec, labels ...string) {
	for _, l := range labels {
		v.WithLabelValues(l)
	}
}

// The classes of status that requests are counted by; what is in none ended without an answer.
var statusClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// routeMetrics are the series of one route, found once: to look them up by their labels costs as much as to serve some requests.
type routeMetrics struct {
	byClass [6]prometheus.Counter // in the order of statusClasses
	seconds prometheus.Observer
}

// route makes a route's series. The empty one counts what has no route.
func (m *metrics) route(listener, route string) *routeMetrics {
	r := &routeMetrics{seconds: m.requestSeconds.WithLabelValues(listener)}
	for i, class := range statusClasses {
		r.byClass[i] = m.requests.WithLabelValues(listener, route, class)
	}
	return r
}

func (r *routeMetrics) request(status int, d time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	r.byClass[class].Inc()
	r.seconds.Observe(d.Seconds())
}

func (m *metrics) webhook(p entitlement.Provider, outcome string, d time.Duration) {
	m.webhooks.WithLabelValues(string(p), outcome).Inc()
	m.webhookSeconds.Observe(d.Seconds())
}

func (m *metrics) proposed(err error, d time.Duration) {
	var p *problem.Problem
	outcome := "committed"
	if errors.As(err, &p) && p.Status() < http.StatusInternalServerError {
		outcome = "refused"
	} else if err != nil {
		outcome = "unavailable"
	}
	m.proposals.WithLabelValues(outcome).Inc()
	m.proposalSeconds.Observe(d.Seconds())
}

// eventRecorded notes that an event of the provider's Unix second at is in the state now. One that is dated ahead took no time, one without
// a time is left out.
func (m *metrics) eventRecorded(p entitlement.Provider, by string, at int64, now time.Time) {
	if at > 0 {
		m.eventToRecord.WithLabelValues(string(p), by).Observe(max(now.Sub(time.Unix(at, 0)), 0).Seconds())
	}
}

func (m *metrics) handedOver(reason string) { m.handOvers.WithLabelValues(reason).Inc() }
func (m *metrics) acknowledged(outcome string) {
	m.acknowledgements.WithLabelValues(outcome).Inc()
}
func (m *metrics) readFailed()                { m.readFailures.Inc() }
func (m *metrics) refused(reason string)      { m.credentials.WithLabelValues(reason).Inc() }
func (m *metrics) head(outcome string)        { m.heads.WithLabelValues(outcome).Inc() }
func (m *metrics) pulled(outcome string)      { m.pulls.WithLabelValues(outcome).Inc() }
func (m *metrics) certificate(outcome string) { m.certificates.WithLabelValues(outcome).Inc() }
func (m *metrics) providerPull(p entitlement.Provider, outcome string) {
	m.providerPulls.WithLabelValues(string(p), outcome).Inc()
}
func (m *metrics) receipt(p entitlement.Provider, outcome string) {
	m.receipts.WithLabelValues(string(p), outcome).Inc()
}
func (m *metrics) session(env entitlement.Environment) {
	m.sessionsIssued.WithLabelValues(string(env)).Inc()
}
