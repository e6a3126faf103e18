package main

import (
	"path/filepath"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
	corev1 "k8s.io/api/core/v1"
)

// expected is what each file of values asks for beyond what always holds.
var expected = map[string]func(*rendering) []string{
	"default": func(r *rendering) []string {
		var p problems
		p.unless(*r.set.Spec.Replicas == 3, "not three nodes")
		p.unless(r.policy == nil && r.monitor == nil, "there is more than was asked for")
		p.unless(len(r.services) == 3 && r.services["portolan"].Spec.Type == corev1.ServiceTypeClusterIP, "Services")
		_, isOpen := r.settings["listen"]["region"]
		p.unless(!isOpen, "there is a door for other regions")
		key := r.set.Spec.Template.Spec.TopologySpreadConstraints[0].TopologyKey
		p.unless(key == corev1.LabelTopologyZone, "zones are told by %s", key)
		return p
	},
	"one-node": func(r *rendering) []string {
		var p problems
		p.unless(r.settings["listen"]["public_insecure"] == true, "clients can't speak HTTP")
		p.unless(*r.services["portolan"].Spec.Ports[0].AppProtocol == "http", "the Service says something else")
		return p
	},
	"region": func(r *rendering) []string {
		var p problems
		service := r.services["portolan-region"]
		if service == nil {
			return []string{"there is no Service for other regions"}
		}
		port := service.Spec.Ports[0]
		p.unless(port.Port == 17404 && port.TargetPort.StrVal == "region", "its port is %+v", port)
		p.unless(service.Spec.Type == corev1.ServiceTypeLoadBalancer, "it is %s", service.Spec.Type)
		node := r.settings["node"]
		p.unless(node["region"] == "eu-1" && node["region_number"] == int64(7), "the region is %v", node)
		p.unless(strings.Contains(r.notes, "--public-address=registry.eu.example.com "), "clients have no name")
		public := r.services["portolan"].Spec
		p.unless(public.ExternalTrafficPolicy == "Local" && *public.LoadBalancerClass == "example.com/inside", "%+v", public)
		return p
	},
	"network-policy": func(r *rendering) []string {
		var p problems
		if r.policy == nil {
			return []string{"there is no NetworkPolicy"}
		}
		p.unless(len(r.policy.Spec.Ingress) == 4 && len(r.policy.Spec.Egress) == 0, "%+v", r.policy.Spec)
		p.unless(len(r.policy.Spec.Ingress[2].From) == 3, "who asks for metrics is shut out")
		return p
	},
	"s3": func(r *rendering) []string {
		var p problems
		s3, http := r.settings["s3"], r.settings["http"]
		p.unless(r.settings["blobs"]["driver"] == "s3" && r.settings["blobs"]["full_percent"] == int64(80), "blobs")
		p.unless(s3["path_style"] == false && s3["bucket"] == "images", "%v", s3)
		p.unless(reflect.DeepEqual(http["trusted_proxies"], []any{"10.0.0.0/8", "fd00::/8"}), "%v", http)
		p.unless(http["max_connections"] == int64(1_000_000), "%v", http)
		files, err := r.files(0)
		p.unless(err == nil && files["/s3/secret-key"] == secretFile{"bucket-key", "the-secret"}, "%v", files)
		return p
	},
	"zones-by-label": func(r *rendering) []string {
		var p problems
		p.unless(r.set.Name == "registry" && r.set.Spec.ServiceName == "registry-nodes", "it is called %s", r.set.Name)
		claims := r.set.Spec.VolumeClaimTemplates
		p.unless(len(claims) == 2 && r.settings["raft"]["dir"] == "/log/raft", "the log has no volume")
		for _, claim := range claims {
			p.unless(claim.Spec.StorageClassName != nil, "%s has the default class", claim.Name)
		}
		environment, err := r.environment(1, map[string]string{corev1.LabelTopologyZone: "eu-central-1b"})
		p.unless(err == nil && environment["PORTOLAN_NODE_ZONE"] == "eu-central-1b", "%v", environment)
		return p
	},
	"all": func(r *rendering) []string {
		var p problems
		p.unless(r.job == nil && r.account == nil, "there is a Job or an account")
		p.unless(strings.Contains(r.notes, "cluster init"), "NOTES.txt does not say how to found")
		p.unless(strings.Count(r.notes, "--seed portolan-images-0.") == 4, "not four nodes join")
		spec := r.set.Spec.Template.Spec
		p.unless(spec.ServiceAccountName == "nobody" && spec.PriorityClassName == "high", "%+v", spec)
		p.unless(len(spec.ImagePullSecrets) == 1 && len(spec.Tolerations) == 1, "%+v", spec)
		p.unless(spec.Affinity.NodeAffinity != nil && spec.NodeSelector["example.com/disk"] == "nvme", "%+v", spec)
		p.unless(strings.Contains(r.container().Image, "portolan@sha256:"), "the image is %s", r.container().Image)
		p.unless(r.settings["listen"]["admin"] == "[::]:7403", "it listens on %v", r.settings["listen"])
		p.unless(r.monitor != nil && r.monitor.Labels["release"] == "prometheus", "there is no ServiceMonitor")
		p.unless(r.services["portolan-images"].Spec.Ports[0].NodePort == 30443, "the port is another one")
		return p
	},
}

// version checks that the chart runs the version that is built here.
func (b bench) version(base *rendering) []string {
	var p problems
	var cargo struct {
		Workspace struct {
			Package struct{ Version string }
		}
	}
	if _, err := toml.DecodeFile(filepath.Join(b.chart, "../../../Cargo.toml"), &cargo); err != nil {
		return problem(err)
	}
	wanted := "portolan:" + cargo.Workspace.Package.Version
	p.unless(base.container().Image == wanted, "Chart.yaml wants %s, and %s is built", base.container().Image, wanted)
	return p
}

// between checks what must and must not change from one rendering to another.
func (b bench) between(t *tally, first map[string]*rendering) {
	base := first["default"]
	if base == nil {
		return
	}
	with := func(values string) *rendering {
		r, err := b.render(values)
		t.that("renders with "+values, problem(err))
		if err != nil {
			return base
		}
		return r
	}
	var p problems
	p.unless(with("{}").text == base.text, "the same values make something else")
	for _, values := range []string{
		"image: { tag: other }", "replicas: 5", "form: { wait: 1h }", "secrets: { operator: other }",
	} {
		p.unless(with(values).job.Name != base.job.Name, "%s: the Job keeps its name, and can't be changed", values)
	}
	for _, values := range []string{"service: { port: 5000 }", "settings: { gc: { grace: 1h } }", "drainSeconds: 9"} {
		p.unless(with(values).job.Name == base.job.Name, "%s: the Job has another name", values)
	}
	sum := func(r *rendering) string { return r.set.Spec.Template.Annotations["checksum/config"] }
	p.unless(sum(with("drainSeconds: 9")) != sum(base), "pods keep their old configuration")
	p.unless(sum(with("service: { port: 5000 }")) == sum(base), "pods restart for nothing")
	// what a StatefulSet never lets change
	for name, r := range first {
		if r.set.Name != base.set.Name {
			continue
		}
		isSame := reflect.DeepEqual(r.set.Spec.Selector, base.set.Spec.Selector) &&
			r.set.Spec.ServiceName == base.set.Spec.ServiceName &&
			r.set.Spec.PodManagementPolicy == base.set.Spec.PodManagementPolicy
		p.unless(isSame, "%s: the StatefulSet can't be changed to that", name)
	}
	t.that("from one rendering to another", p)
	t.that("the image is the one that is built", b.version(base))
}
