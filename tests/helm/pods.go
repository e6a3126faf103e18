package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// region runs the pods of a rendering as containers: what a kubelet makes of them, as far as an engine for containers
// can. Volumes, Secrets and the DNS are made as Kubernetes makes them: root owns the files, the pod's group may read.
type region struct {
	product *product
	image   string
	dir     string
	network string
	number  int
}

// user is that of the pods; its group owns what they may read.
const user = 65532

func (g *region) docker(arguments ...string) (string, error) {
	status, said := g.product.run(g.dir, nil, "docker", arguments...)
	if status != 0 {
		return "", fmt.Errorf("docker %s: status %d: %s", strings.Join(arguments, " "), status, said)
	}
	return strings.TrimSpace(said), nil
}

// container is the name of a pod's container on this machine.
func (g *region) container(pod string) string { return g.network + "-" + pod }

// given makes a directory or a file as Kubernetes makes it: root's, and for the pod's group to use.
func given(path string, mode os.FileMode) error {
	if err := os.Chown(path, 0, user); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// copied is a Secret's file on its way into a pod.
func copied(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		return err
	}
	return given(to, 0o440)
}

// arguments of `docker run` that every pod has.
func (g *region) arguments(name string, pod *corev1.PodTemplateSpec) []string {
	own, container := pod.Spec.SecurityContext, pod.Spec.Containers[0]
	arguments := []string{
		"--name", g.container(name), "--network", g.network, "--user", fmt.Sprintf("%d:%d", *own.RunAsUser, *own.RunAsGroup),
		"--group-add", fmt.Sprint(*own.FSGroup), "--security-opt", "no-new-privileges:true",
	}
	if *container.SecurityContext.ReadOnlyRootFilesystem {
		arguments = append(arguments, "--read-only")
	}
	for _, drop := range container.SecurityContext.Capabilities.Drop {
		arguments = append(arguments, "--cap-drop", string(drop))
	}
	return arguments
}

// start runs a node's pod; again on what it left, if it was there before.
func (g *region) start(r *rendering, setup string, number int) error {
	name := r.podName(number)
	dir := filepath.Join(g.dir, "pods", name)
	arguments := append([]string{"run", "-d", "--hostname", name, "--network-alias", r.address(number)},
		g.arguments(name, &r.set.Spec.Template)...)
	environment, err := r.environment(number, map[string]string{corev1.LabelTopologyZone: "zone-1"})
	if err != nil {
		return err
	}
	for key, value := range environment {
		arguments = append(arguments, "--env", key+"="+value)
	}
	files, err := r.files(number)
	if err != nil {
		return err
	}
	for path, file := range files {
		here := filepath.Join(dir, "files", path)
		from := filepath.Join(setup, "nodes", name, file.key)
		if file.secret == "" {
			from = filepath.Join(g.dir, "portolan.toml")
			if err := os.WriteFile(from, []byte(r.toml), 0o600); err != nil {
				return err
			}
		}
		if err := copied(from, here); err != nil {
			return err
		}
		arguments = append(arguments, "--volume", here+":"+path+":ro")
	}
	for _, claim := range r.set.Spec.VolumeClaimTemplates {
		here := filepath.Join(dir, claim.Name)
		if err := os.MkdirAll(here, 0o755); err != nil {
			return err
		}
		// as fsGroup leaves a new volume
		if err := given(here, 0o775|os.ModeSetgid); err != nil {
			return err
		}
		at := slices.IndexFunc(r.container().VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == claim.Name })
		arguments = append(arguments, "--volume", here+":"+r.container().VolumeMounts[at].MountPath)
	}
	_, err = g.docker(slices.Concat(arguments, []string{g.image}, r.container().Args)...)
	return err
}

// form runs the Job to its end.
func (g *region) form(r *rendering, setup string) (string, error) {
	g.number++
	name := fmt.Sprintf("form-%d", g.number)
	dir := filepath.Join(g.dir, "pods", name)
	arguments := append([]string{"run", "--rm"}, g.arguments(name, &r.job.Spec.Template)...)
	for _, file := range []string{"ca.pem", "operator.pem", "operator.key"} {
		if err := copied(filepath.Join(setup, "operators", "setup", file), filepath.Join(dir, file)); err != nil {
			return "", err
		}
	}
	container := r.job.Spec.Template.Spec.Containers[0]
	arguments = append(arguments, "--volume", dir+":"+container.VolumeMounts[0].MountPath+":ro")
	return g.docker(slices.Concat(arguments, []string{g.image}, container.Args)...)
}

// inside runs a command in a node's container, as `kubectl exec` does.
func (g *region) inside(r *rendering, number int, arguments ...string) (string, error) {
	return g.docker(slices.Concat([]string{"exec", g.container(r.podName(number)), "/usr/bin/portolan"}, arguments)...)
}

// address is where a pod is now.
func (g *region) address(r *rendering, number int) (string, error) {
	format := "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
	return g.docker("inspect", "--format", format, g.container(r.podName(number)))
}

// probe asks what a kubelet asks, at the address of the pod, believing any certificate.
func (g *region) probe(r *rendering, number int, probe *corev1.Probe) error {
	ip, err := g.address(r, number)
	if err != nil {
		return err
	}
	client := http.Client{
		Timeout:   time.Duration(probe.TimeoutSeconds) * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	get := probe.HTTPGet
	port := portNames(r)[get.Port.StrVal]
	answer, err := client.Get(fmt.Sprintf("%s://%s:%d%s", strings.ToLower(string(get.Scheme)), ip, port, get.Path))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", get.Path, answer.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// tell shows what the containers said last.
func (g *region) tell() {
	all, _ := g.docker("ps", "-a", "--filter", "network="+g.network, "--format", "{{.Names}}")
	for _, name := range strings.Fields(all) {
		said, _ := g.docker("logs", "--tail", "50", name)
		lines := slices.DeleteFunc(strings.Split(said, "\n"), func(line string) bool {
			return strings.Contains(line, `"target":"access"`)
		})
		fmt.Printf("%s:\n  %s\n", name, strings.Join(lines[max(0, len(lines)-4):], "\n  "))
	}
}

// within waits for something.
func within(patience time.Duration, done func() error) error {
	until := time.Now().Add(patience)
	for {
		err := done()
		if err == nil || time.Now().After(until) {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// public asks the registry API of a node by the name of the Service, believing the authority of the cluster alone.
func (g *region) public(r *rendering, setup string, number int) error {
	ca, err := os.ReadFile(filepath.Join(setup, "ca.pem"))
	if err != nil {
		return err
	}
	ip, err := g.address(r, number)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	name := fmt.Sprintf("%s.%s.svc.%s", r.set.Name, namespace, r.values["clusterDomain"])
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}, DisableKeepAlives: true}
	client := http.Client{Timeout: 5 * time.Second, Transport: transport}
	answer, err := client.Get(fmt.Sprintf("https://%s:%d/v2/", ip, portNames(r)["public"]))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("GET /v2/: %s", answer.Status)
	}
	return nil
}

type nodeStatus struct {
	Zone  string `json:"zone"`
	Votes bool   `json:"votes"`
}

// whole tells whether all nodes are members and vote, in these zones.
func (g *region) whole(r *rendering, zones ...string) error {
	said, err := g.inside(r, 0, "cluster", "status", "-o", "json")
	if err != nil {
		return err
	}
	// a warning about the mode of the key stands before or behind it
	var status struct {
		Nodes []nodeStatus `json:"nodes"`
	}
	_, document, _ := strings.Cut(said, "{")
	if err := json.NewDecoder(strings.NewReader("{" + document)).Decode(&status); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	var found []string
	for _, node := range status.Nodes {
		if node.Votes {
			found = append(found, node.Zone)
		}
	}
	slices.Sort(found)
	if len(status.Nodes) != int(*r.set.Spec.Replicas) || !slices.Equal(found, zones) {
		return fmt.Errorf("%d nodes; those that vote are in %v", len(status.Nodes), found)
	}
	return nil
}

// pods founds a region of three from the default values, restarts a node, and goes to five.
func (b bench) pods(t *tally, p *product, image string) {
	g := &region{product: p, image: image, dir: filepath.Join(p.dir, "containers")}
	g.network = fmt.Sprintf("helm-%d", os.Getpid())
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.that("pods: a folder", problem(err))
		return
	}
	if err := given(p.dir, 0o755); err != nil {
		t.that("pods: root", problem(err))
		return
	}
	if _, err := g.docker("network", "create", g.network); err != nil {
		t.that("pods: a network", problem(err))
		return
	}
	defer func() {
		if all, err := g.docker("ps", "-aq", "--filter", "network="+g.network); err == nil && all != "" {
			g.docker(append([]string{"rm", "-f"}, strings.Fields(all)...)...)
		}
		g.docker("network", "rm", g.network)
	}()
	// each step needs the one before
	isGood := true
	step := func(name string, do func() error) {
		if !isGood {
			return
		}
		begin := time.Now()
		err := do()
		t.that("pods: "+name, problem(err))
		if err != nil {
			g.tell()
		}
		isGood = err == nil
		if isGood {
			fmt.Printf("pods: %s (%.1f s)\n", name, time.Since(begin).Seconds())
		}
	}
	setup := filepath.Join(g.dir, "setup")
	three, err := b.render("{}")
	five, errFive := b.render("replicas: 5")
	if err != nil || errFive != nil {
		t.that("pods: render", []string{fmt.Sprint(err, errFive)})
		return
	}
	ready := func(r *rendering) error {
		for number := range int(*r.set.Spec.Replicas) {
			for _, probe := range []*corev1.Probe{r.container().LivenessProbe, r.container().ReadinessProbe} {
				if err := within(time.Minute, func() error { return g.probe(r, number, probe) }); err != nil {
					return fmt.Errorf("%s: %w", r.podName(number), err)
				}
			}
		}
		return nil
	}
	step("the image knows the settings that the program knows", func() error {
		status, here := p.run(g.dir, nil, p.portolan(), "config", "reference")
		there, err := g.docker("run", "--rm", "--network", "none", g.image, "config", "reference")
		if err == nil && (status != 0 || strings.TrimSpace(here) != there) {
			err = fmt.Errorf("it does not; run make image")
		}
		return err
	})
	step("three pods start and live", func() error {
		if found := p.prepare(g.dir, three); len(found) > 0 {
			return fmt.Errorf("%s", found)
		}
		for number := range 3 {
			if err := g.start(three, setup, number); err != nil {
				return err
			}
		}
		for number := range 3 {
			probe := func() error { return g.probe(three, number, three.container().StartupProbe) }
			if err := within(time.Minute, probe); err != nil {
				return err
			}
		}
		return nil
	})
	step("none is ready before the cluster is founded", func() error {
		if err := g.probe(three, 0, three.container().ReadinessProbe); err == nil {
			return fmt.Errorf("it is ready")
		}
		return nil
	})
	step("the Job founds the cluster", func() error {
		said, err := g.form(three, setup)
		if err == nil && !strings.Contains(said, "the cluster is founded; 3 nodes are ready") {
			err = fmt.Errorf("%s", said)
		}
		return err
	})
	step("all are ready, each votes in a zone of its own", func() error {
		if err := ready(three); err != nil {
			return err
		}
		return within(time.Minute, func() error { return g.whole(three, "portolan-0", "portolan-1", "portolan-2") })
	})
	step("the registry answers by the name of the Service", func() error { return g.public(three, setup, 1) })
	step("the Job run again finds the cluster", func() error {
		said, err := g.form(three, setup)
		if err == nil && !strings.Contains(said, "the cluster was there already") {
			err = fmt.Errorf("%s", said)
		}
		return err
	})
	step("a pod that is stopped ends in its time and comes back at another address", func() error {
		name := g.container(three.podName(2))
		before, err := g.address(three, 2)
		if err != nil {
			return err
		}
		patience := fmt.Sprint(*three.set.Spec.Template.Spec.TerminationGracePeriodSeconds)
		if _, err := g.docker("stop", "--time", patience, name); err != nil {
			return err
		}
		if status, err := g.docker("inspect", "--format", "{{.State.ExitCode}}", name); err != nil || status != "0" {
			return fmt.Errorf("status %s, %v", status, err)
		}
		if _, err := g.docker("rm", name); err != nil {
			return err
		}
		// something else takes its address meanwhile
		other := []string{"run", "-d", "--name", g.container("other"), "--network", g.network, "--tmpfs", "/data"}
		if _, err := g.docker(append(other, "--user", "0", g.image)...); err != nil {
			return err
		}
		if err := g.start(three, setup, 2); err != nil {
			return err
		}
		if after, err := g.address(three, 2); err != nil || after == before {
			return fmt.Errorf("it is at %s again, %v", after, err)
		}
		return ready(three)
	})
	step("two more pods are taken in by the Job", func() error {
		if found := p.prepare(g.dir, five); len(found) > 0 {
			return fmt.Errorf("%s", found)
		}
		for number := 3; number < 5; number++ {
			if err := g.start(five, setup, number); err != nil {
				return err
			}
		}
		said, err := g.form(five, setup)
		if err == nil && !strings.Contains(said, "the cluster was there already; 5 nodes are ready") {
			err = fmt.Errorf("%s", said)
		}
		if err != nil {
			return err
		}
		if err := ready(five); err != nil {
			return err
		}
		zones := []string{"portolan-0", "portolan-1", "portolan-2", "portolan-3", "portolan-4"}
		return within(time.Minute, func() error { return g.whole(five, zones...) })
	})
	one, err := b.render(alone)
	if err != nil {
		t.that("pods: render", problem(err))
		return
	}
	step("a pod alone takes its zone from its label, and has a volume for its log", func() error {
		if found := p.prepare(g.dir, one); len(found) > 0 {
			return fmt.Errorf("%s", found)
		}
		if err := g.start(one, setup, 0); err != nil {
			return err
		}
		said, err := g.form(one, setup)
		if err == nil && !strings.Contains(said, "the cluster is founded; 1 nodes are ready") {
			err = fmt.Errorf("%s", said)
		}
		if err != nil {
			return err
		}
		if err := ready(one); err != nil {
			return err
		}
		if log, err := os.ReadDir(filepath.Join(g.dir, "pods", one.podName(0), "log", "raft")); err != nil || len(log) == 0 {
			return fmt.Errorf("its log is elsewhere: %v", err)
		}
		return g.whole(one, "zone-1")
	})
	hand, err := b.render("fullnameOverride: hand\nform: { enabled: false }")
	if err != nil {
		t.that("pods: render", problem(err))
		return
	}
	step("three pods are founded by the commands of NOTES.txt, without a Job", func() error {
		if found := p.prepare(g.dir, hand); len(found) > 0 {
			return fmt.Errorf("%s", found)
		}
		for number := range 3 {
			if err := g.start(hand, setup, number); err != nil {
				return err
			}
		}
		for number := range 3 {
			probe := func() error { return g.probe(hand, number, hand.container().StartupProbe) }
			if err := within(time.Minute, probe); err != nil {
				return err
			}
		}
		if err := g.byHand(hand); err != nil {
			return err
		}
		if err := ready(hand); err != nil {
			return err
		}
		return within(time.Minute, func() error { return g.whole(hand, "hand-0", "hand-1", "hand-2") })
	})
	step("a pod that starts without a majority lives on, and is ready when there is one", func() error {
		others := []string{g.container(hand.podName(1)), g.container(hand.podName(2))}
		if _, err := g.docker(append([]string{"stop"}, others...)...); err != nil {
			return err
		}
		if _, err := g.docker("restart", g.container(hand.podName(0))); err != nil {
			return err
		}
		start := hand.container().StartupProbe
		if err := within(time.Minute, func() error { return g.probe(hand, 0, start) }); err != nil {
			return err
		}
		if err := g.probe(hand, 0, hand.container().ReadinessProbe); err == nil {
			return fmt.Errorf("it is ready")
		}
		// why the probe does not ask what its name suggests
		other := start.DeepCopy()
		other.HTTPGet.Path = "/startupz"
		if err := g.probe(hand, 0, other); err == nil || !strings.Contains(err.Error(), "waiting for a majority") {
			return fmt.Errorf("/startupz does not wait: %v", err)
		}
		if _, err := g.docker(append([]string{"start"}, others...)...); err != nil {
			return err
		}
		return ready(hand)
	})
}

// byHand runs the commands of NOTES.txt that found a cluster without the Job.
func (g *region) byHand(r *rendering) error {
	count := 0
	for _, line := range strings.Split(strings.ReplaceAll(r.notes, "\\\n", " "), "\n") {
		command, isExec := strings.CutPrefix(strings.TrimSpace(line), "kubectl -n "+namespace+" exec ")
		pod, arguments, _ := strings.Cut(command, " -- ")
		if !isExec || !strings.Contains(arguments, "cluster init") && !strings.Contains(arguments, "cluster join") {
			continue
		}
		count++
		if _, err := g.docker(append([]string{"exec", g.container(pod)}, strings.Fields(arguments)...)...); err != nil {
			return err
		}
	}
	if count != int(*r.set.Spec.Replicas) {
		return fmt.Errorf("%d commands", count)
	}
	return nil
}

// alone is one node with what the default leaves out.
const alone = `
fullnameOverride: alone
replicas: 1
zone: { from: label }
public: { insecure: true }
region: { name: eu-1, number: 2, listener: { enabled: true } }
persistence: { log: { enabled: true } }
settings: { log: { audit_file: /data/audit/audit.json } }
`
