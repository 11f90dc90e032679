package observed

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/openzipkin/zipkin-go/model"
)

// Spans receives spans as a Zipkin collector does (POST /api/v2/spans).
type Spans struct {
	listener net.Listener
	server   *http.Server
	wg       sync.WaitGroup

	mu  sync.Mutex
	got []model.SpanModel
	bad []error
}

// ListenSpans receives over all connections to l, which it closes.
func ListenSpans(l net.Listener) *Spans {
	s := &Spans{listener: l}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/spans", s.receive)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	s.wg.Go(func() { _ = s.server.Serve(l) }) // ends with Close
	return s
}

// Addr returns where it listens.
func (s *Spans) Addr() net.Addr { return s.listener.Addr() }

func (s *Spans) receive(w http.ResponseWriter, r *http.Request) {
	var spans []model.SpanModel
	err := json.NewDecoder(r.Body).Decode(&spans)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.bad = append(s.bad, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.got = append(s.got, spans...)
	w.WriteHeader(http.StatusAccepted)
}

// Trace is the spans of one query.
type Trace []model.SpanModel

// Traces returns what was received so far, by query, in the order of the
// first span that came of each.
func (s *Spans) Traces() []Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Trace
	at := make(map[model.TraceID]int)
	for _, span := range s.got {
		i, ok := at[span.TraceID]
		if !ok {
			i = len(out)
			at[span.TraceID] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], span)
	}
	return out
}

// Errors returns what was received and could not be understood.
func (s *Spans) Errors() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bad)
}

// Close ends all connections.
func (s *Spans) Close() {
	_ = s.server.Close()
	s.wg.Wait()
}

// Named returns the spans of a name, the first first.
func (t Trace) Named(name string) []model.SpanModel {
	out := slices.DeleteFunc(slices.Clone(t), func(s model.SpanModel) bool { return s.Name != name })
	slices.SortFunc(out, func(a, b model.SpanModel) int { return a.Timestamp.Compare(b.Timestamp) })
	return out
}
