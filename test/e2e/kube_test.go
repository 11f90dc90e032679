package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kubeAdmin is the token of who may do everything.
const kubeAdmin = "admin-of-the-end-to-end-tests"

// kube is a Kubernetes API: a kube-apiserver that checks rights by RBAC, and
// its etcd, on a host whose address is that of the Service kubernetes. There
// are no nodes, and no controllers.
type kube struct {
	*host
	api, etcd *process
	ca        *authority
	client    *http.Client
}

// requiresKube skips the test without the programs.
func requiresKube(t *testing.T) {
	t.Helper()
	requires(t, "etcd")
	if _, err := os.Stat(kubeAPIServer()); err != nil {
		t.Skip("DNSGUARD_E2E_KUBE is no directory that test/kube/build has filled")
	}
}

func kubeAPIServer() string { return filepath.Join(os.Getenv("DNSGUARD_E2E_KUBE"), "kube-apiserver") }

// startKube starts one. It does not wait for it to serve: see ready.
func (h *host) startKube() *kube {
	h.t.Helper()
	dir := h.tempDir()
	k := &kube{host: h, ca: newAuthority(h), client: h.httpClient()}
	roots := x509.NewCertPool()
	if ca, err := os.ReadFile(k.ca.file()); err != nil || !roots.AppendCertsFromPEM(ca) {
		h.t.Fatalf("the certificate of the authority: %v", err)
	}
	k.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	cert, key := k.ca.issue("api", h.addr.String(), time.Now().Add(time.Hour))
	tokens := filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(kubeAdmin+`,admin,1,"system:masters"`+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	const store = "http://127.0.0.1:2379"
	k.etcd = h.start("etcd on "+h.addr.String(), "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+store, "--advertise-client-urls="+store,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380")
	k.api = h.start("kube-apiserver on "+h.addr.String(), kubeAPIServer(), "--etcd-servers="+store, "--cert-dir="+dir,
		"--bind-address="+h.addr.String(), "--advertise-address="+h.addr.String(), "--secure-port=443", "--tls-cert-file="+cert, "--tls-private-key-file="+key,
		"--service-cluster-ip-range="+h.addr.String()+"/24", "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		// Its checks need the accounts that a controller makes.
		"--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-signing-key-file="+key, "--service-account-key-file="+key)
	return k
}

// ready waits until the API serves.
func (k *kube) ready() {
	k.t.Helper()
	eventually(k.t, time.Minute, k.api, func() error {
		status, body, err := k.ask(kubeAdmin, http.MethodGet, "/readyz", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
}

// stop ends the API as a node does that is shut down.
func (k *kube) stop() {
	k.t.Helper()
	for _, p := range []*process{k.api, k.etcd} {
		p.killed = true
		if err := syscall.Kill(p.pid(), syscall.SIGTERM); err != nil {
			k.t.Fatal(err)
		}
		_ = p.exits(30 * time.Second) // etcd ends by its own signal
	}
}

// ask sends a request with a token; the body is YAML.
func (k *kube) ask(token, method, path, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequest(method, "https://"+k.addrPort(443)+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/yaml")
	req.Header.Set("Accept", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// create makes an object, given in YAML, and returns what the API answers.
func (k *kube) create(path, object string) []byte {
	k.t.Helper()
	var answer []byte
	eventually(k.t, 10*time.Second, k.api, func() error { // the namespaces come a moment after the API
		status, body, err := k.ask(kubeAdmin, http.MethodPost, path, object)
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("%s: %d %s", path, status, body)
		}
		answer = body
		return err
	})
	return answer
}

// delete removes an object.
func (k *kube) delete(path string) {
	k.t.Helper()
	if status, body, err := k.ask(kubeAdmin, http.MethodDelete, path, ""); err != nil || status != http.StatusOK {
		k.t.Fatalf("%s: %d %s %v", path, status, body, err)
	}
}

// uid is that of the namespace kube-system.
func (k *kube) uid() string {
	k.t.Helper()
	var object struct{ Metadata struct{ UID string } }
	eventually(k.t, 10*time.Second, k.api, func() error {
		_, body, err := k.ask(kubeAdmin, http.MethodGet, "/api/v1/namespaces/kube-system", "")
		if err == nil {
			err = json.Unmarshal(body, &object)
		}
		if err == nil && object.Metadata.UID == "" {
			err = fmt.Errorf("no namespace: %s", body)
		}
		return err
	})
	return object.Metadata.UID
}

// account makes a service account.
func (k *kube) account(namespace, name string) {
	k.t.Helper()
	k.create("/api/v1/namespaces/"+namespace+"/serviceaccounts", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: "+name+"}\n")
}

// token has the API issue one for a service account, as the kubelet does.
func (k *kube) token(namespace, name string) string {
	k.t.Helper()
	var object struct{ Status struct{ Token string } }
	body := k.create("/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", "apiVersion: authentication.k8s.io/v1\nkind: TokenRequest\nspec: {expirationSeconds: 3600}\n")
	if err := json.Unmarshal(body, &object); err != nil || object.Status.Token == "" {
		k.t.Fatalf("no token: %v %s", err, body)
	}
	return object.Status.Token
}

// coreDNSRole are the rights that CoreDNS's own manifests give it.
const coreDNSRole = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:coredns"}
rules:
- apiGroups: [""]
  resources: [endpoints, services, pods, namespaces]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
`

// coreDNS makes the service account and the rights of CoreDNS.
func (k *kube) coreDNS() {
	k.t.Helper()
	k.account("kube-system", "coredns")
	k.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", coreDNSRole)
	k.bind("kube-system", "coredns")
}

// bind gives an account the rights of CoreDNS.
func (k *kube) bind(namespace, name string) {
	k.t.Helper()
	k.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "%[1]s-%[2]s"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}
subjects:
- {kind: ServiceAccount, namespace: %[1]s, name: %[2]s}
`, namespace, name))
}

// pod is what makes a process one of a pod: the environment, and the volume of
// its service account, laid out as by the kubelet.
type pod struct {
	k     *kube
	dir   string
	token int // the number of the present one
}

// pod makes one, with a token.
func (k *kube) pod(token string) *pod {
	k.t.Helper()
	p := &pod{k: k, dir: k.tempDir()}
	p.renew(token)
	for _, name := range []string{"token", "ca.crt", "namespace"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(p.dir, name)); err != nil {
			k.t.Fatal(err)
		}
	}
	return p
}

// renew puts another token in the place of the present one, with all else, at once.
func (p *pod) renew(token string) {
	t := p.k.t
	t.Helper()
	p.token++
	name := fmt.Sprintf("..%d", p.token)
	dir := filepath.Join(p.dir, name)
	ca, err := os.ReadFile(p.k.ca.file())
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	for name, text := range map[string][]byte{"token": []byte(token), "ca.crt": ca, "namespace": []byte("kube-system")} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, 0o644))
	}
	next := filepath.Join(p.dir, "..data_tmp")
	if err = errors.Join(err, os.Symlink(name, next)); err == nil {
		err = os.Rename(next, filepath.Join(p.dir, "..data"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wrapper starts a process in the pod. "ip netns exec" has given it a mount namespace of its own.
func (p *pod) wrapper() []string {
	const mounts = `d=/var/run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs tmpfs /var/run/ && mkdir -p $d && mount --bind "$0" $d && exec "$@"`
	return []string{"env", "KUBERNETES_SERVICE_HOST=" + p.k.addr.String(), "KUBERNETES_SERVICE_PORT=443", "sh", "-c", mounts, p.dir}
}

// noPod starts a process that is in no cluster, wherever the tests run.
func noPod() []string { return []string{"env", "-u", "KUBERNETES_SERVICE_HOST"} }
