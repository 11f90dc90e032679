package dnsguard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What a pod finds of its cluster.
const (
	envAPIHost = "KUBERNETES_SERVICE_HOST"
	envAPIPort = "KUBERNETES_SERVICE_PORT"
	account    = "/var/run/secrets/kubernetes.io/serviceaccount"
)

var (
	// errForbidden says that the rights do not suffice, which is not going to change soon.
	errForbidden = errors.New("may not list namespaces")
	// errToken says that the token is none, or no more: the next one may be there any moment.
	errToken = errors.New("the Kubernetes API does not accept the token")
)

// ownCluster returns how to ask the Kubernetes API what the cluster is known by;
// nil outside of one.
func ownCluster(getenv func(string) string) func(ctx context.Context) (string, error) {
	host, port := getenv(envAPIHost), getenv(envAPIPort)
	if host == "" {
		return nil
	}
	if port == "" {
		port = "443"
	}
	api := url.URL{
		Scheme: "https", Host: net.JoinHostPort(host, port), Path: "/api/v1/namespaces",
		// A list, with a selector: CoreDNS has the right to list namespaces, and not to get one.
		RawQuery: url.Values{"fieldSelector": {"metadata.name=kube-system"}, "limit": {"1"}}.Encode(),
	}
	return func(ctx context.Context) (string, error) { return clusterUID(ctx, api.String(), account) }
}

// clusterUID returns the UID of the namespace kube-system, which lives as long as
// the cluster. dir has the token and the authority of a service account.
func clusterUID(ctx context.Context, api, dir string) (string, error) {
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return "", fmt.Errorf("token: %w", withoutPath(err))
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return "", fmt.Errorf("ca.crt: %w", withoutPath(err))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return "", errors.New("ca.crt: holds no certificate")
	}
	const patience, most = 10 * time.Second, 1 << 20 // annotations may have a quarter of that
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	client := &http.Client{Timeout: patience, Transport: transport}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("the Kubernetes API: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return "", errForbidden
	case http.StatusUnauthorized:
		return "", errToken
	default:
		return "", fmt.Errorf("the Kubernetes API: %s", resp.Status)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name, UID string }
		}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&list); err != nil {
		return "", fmt.Errorf("the Kubernetes API: %w", err)
	}
	if len(list.Items) != 1 || list.Items[0].Metadata.Name != "kube-system" || list.Items[0].Metadata.UID == "" {
		return "", errors.New("the Kubernetes API: no namespace kube-system")
	}
	return list.Items[0].Metadata.UID, nil
}

// How often the API is asked until it answers.
const (
	clusterAgain = time.Second // and twice as long after each further time
	clusterRetry = time.Minute
)

// learnCluster asks what the cluster is known by until it is known, or ctx ends.
// Until then what other servers have too is taken for the key.
func (l *loops) learnCluster(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told, lacking bool // that it is not known, and that rights are lacking
	for again := clusterAgain; ; again = min(2*again, clusterRetry) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		uid, err := l.g.env.Cluster(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			l.known(uid)
			if told {
				l.g.env.Logf(LevelInfo, "loops: what tells this cluster from others is known now")
			}
			return
		}
		forbidden := errors.Is(err, errForbidden)
		if !told || forbidden && !lacking {
			l.g.env.Logf(LevelInfo, "loops: going on without what tells this cluster from others: %v", err)
		}
		told, lacking = true, lacking || forbidden
		if forbidden {
			again = clusterRetry
		}
		timer.Reset(again)
	}
}

// known takes what the cluster is known by. The upstreams are probed again: now
// the others of the group understand.
func (l *loops) known(uid string) {
	g := l.g
	r := g.running
	r.mu.Lock()
	defer r.mu.Unlock()
	l.cluster.Store(&uid)
	p := g.pool.Load()
	p.loops.marks.Store(l.marksOf(p.endpoints()))
	p.loops.again(time.Now())
}
