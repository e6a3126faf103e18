package main

import (
	"fmt"
	"maps"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// checks hold for every rendering.
var checks = []struct {
	name string
	of   func(*rendering) []string
}{
	{"names are good and told once", names},
	{"selectors match the nodes and nothing else", selectors},
	{"ports that are named are there", ports},
	{"volumes and mounts belong together", volumes},
	{"probes ask what the product answers", probes},
	{"pods have no rights", rights},
	{"nodes find each other before they are ready", meeting},
	{"each node has its own name, zone and files", perPod},
	{"the configuration names files and ports that are there", configuration},
	{"the Job founds the cluster of all nodes", form},
	{"zones are kept apart as they are told", spread},
	{"a node has time to end", grace},
	{"metrics are asked of every node", monitored},
}

type problems []string

func (p *problems) add(format string, values ...any) { *p = append(*p, fmt.Sprintf(format, values...)) }

// unless notes a problem where something does not hold.
func (p *problems) unless(holds bool, format string, values ...any) {
	if !holds {
		p.add(format, values...)
	}
}

func names(r *rendering) []string {
	var p problems
	seen := map[string]bool{}
	for _, object := range r.objects {
		kind := fmt.Sprintf("%T %s", object, object.GetName())
		p.unless(!seen[kind], "%s stands twice", kind)
		seen[kind] = true
		// Services are the strictest
		p.unless(len(validation.IsDNS1035Label(object.GetName())) == 0, "%s is no name", kind)
		p.unless(object.GetNamespace() == "", "%s has a namespace of its own", kind)
		for key, value := range object.GetLabels() {
			bad := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
			p.unless(len(bad) == 0, "%s: label %s=%s: %v", kind, key, value, bad)
		}
		p.unless(object.GetLabels()["app.kubernetes.io/instance"] == release, "%s is not of the release", kind)
	}
	// room for the hash of a revision
	p.unless(len(r.set.Name) <= 52, "%s is too long for a StatefulSet", r.set.Name)
	return p
}

func selectors(r *rendering) []string {
	var p problems
	node := labels.Set(r.set.Spec.Template.Labels)
	form := labels.Set{}
	if r.job != nil {
		form = r.job.Spec.Template.Labels
	}
	nodesOnly := func(whose string, selector *metav1.LabelSelector) {
		read, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			p.add("%s: %v", whose, err)
			return
		}
		p.unless(!read.Empty(), "%s selects everything", whose)
		p.unless(read.Matches(node), "%s does not select the nodes", whose)
		p.unless(!read.Matches(form), "%s selects the Job's pod", whose)
	}
	nodesOnly("StatefulSet", r.set.Spec.Selector)
	nodesOnly("PodDisruptionBudget", r.budget.Spec.Selector)
	for name, service := range r.services {
		nodesOnly("Service "+name, &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
	}
	spec := r.set.Spec.Template.Spec
	for _, constraint := range spec.TopologySpreadConstraints {
		nodesOnly("topologySpreadConstraints", constraint.LabelSelector)
	}
	affinity := spec.Affinity.PodAntiAffinity
	for _, term := range affinity.RequiredDuringSchedulingIgnoredDuringExecution {
		nodesOnly("podAntiAffinity", term.LabelSelector)
	}
	for _, term := range affinity.PreferredDuringSchedulingIgnoredDuringExecution {
		nodesOnly("podAntiAffinity", term.PodAffinityTerm.LabelSelector)
	}
	if r.policy == nil {
		return p
	}
	nodesOnly("NetworkPolicy", &r.policy.Spec.PodSelector)
	formIsLetIn := false
	for _, rule := range r.policy.Spec.Ingress {
		for _, peer := range rule.From {
			if peer.PodSelector == nil || peer.NamespaceSelector != nil {
				continue
			}
			read, err := metav1.LabelSelectorAsSelector(peer.PodSelector)
			p.unless(err == nil && (read.Matches(node) || read.Matches(form)), "a peer of the NetworkPolicy is nobody")
			isAdmin := len(rule.Ports) == 1 && rule.Ports[0].Port.StrVal == "admin"
			formIsLetIn = formIsLetIn || isAdmin && err == nil && read.Matches(form)
		}
	}
	p.unless(r.job == nil || formIsLetIn, "the NetworkPolicy shuts the Job out")
	return p
}

// portNames are the ports of the nodes, by name.
func portNames(r *rendering) map[string]int32 {
	found := map[string]int32{}
	for _, port := range r.container().Ports {
		found[port.Name] = port.ContainerPort
	}
	return found
}

func ports(r *rendering) []string {
	var p problems
	known := portNames(r)
	p.unless(len(known) == len(r.container().Ports), "a port has no name, or two have one")
	named := func(whose string, port intstr.IntOrString) {
		_, isThere := known[port.StrVal]
		p.unless(isThere, "%s names the port %q", whose, port.String())
	}
	for name, service := range r.services {
		for _, port := range service.Spec.Ports {
			named("Service "+name, port.TargetPort)
		}
	}
	c := r.container()
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		named("a probe", probe.HTTPGet.Port)
	}
	if r.policy == nil {
		return p
	}
	open := map[string]bool{}
	for _, rule := range r.policy.Spec.Ingress {
		for _, port := range rule.Ports {
			named("NetworkPolicy", *port.Port)
			open[port.Port.StrVal] = true
			isInner := port.Port.StrVal == "raft" || port.Port.StrVal == "blob" || port.Port.StrVal == "admin"
			p.unless(!isInner || len(rule.From) > 0, "the NetworkPolicy opens %s to everybody", port.Port.StrVal)
		}
	}
	for name := range known {
		p.unless(open[name], "the NetworkPolicy shuts %s", name)
	}
	return p
}

func volumes(r *rendering) []string {
	var p problems
	for whose, pod := range r.pods() {
		known, used, paths := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, volume := range pod.Spec.Volumes {
			p.unless(!known[volume.Name], "%s: the volume %s stands twice", whose, volume.Name)
			known[volume.Name] = true
		}
		if whose == "node" {
			for _, claim := range r.set.Spec.VolumeClaimTemplates {
				p.unless(!known[claim.Name], "%s: the volume %s stands twice", whose, claim.Name)
				known[claim.Name] = true
				size := claim.Spec.Resources.Requests.Storage()
				p.unless(size != nil && !size.IsZero(), "%s: the volume %s has no size", whose, claim.Name)
			}
		}
		for _, container := range pod.Spec.Containers {
			for _, mount := range container.VolumeMounts {
				p.unless(known[mount.Name], "%s: a mount wants the volume %s", whose, mount.Name)
				p.unless(!paths[mount.MountPath], "%s: %s is mounted twice", whose, mount.MountPath)
				used[mount.Name], paths[mount.MountPath] = true, true
				isData := mount.Name == "data" || mount.Name == "log"
				p.unless(mount.ReadOnly != isData, "%s: %s: readOnly is %t", whose, mount.MountPath, mount.ReadOnly)
			}
		}
		p.unless(reflect.DeepEqual(known, used), "%s: volumes %v, used %v", whose, known, used)
		secretMode := func(mode *int32) {
			p.unless(mode != nil && *mode == 0o440, "%s: a Secret can be read by others, or not by the group", whose)
		}
		for _, volume := range pod.Spec.Volumes {
			if volume.Secret != nil {
				secretMode(volume.Secret.DefaultMode)
				p.unless(volume.Secret.SecretName != "", "%s: the volume %s names no Secret", whose, volume.Name)
			}
			if volume.Projected != nil {
				secretMode(volume.Projected.DefaultMode)
			}
		}
	}
	return p
}

func probes(r *rendering) []string {
	var p problems
	c := r.container()
	for path, probe := range map[string]*corev1.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		get := probe.HTTPGet
		p.unless(get.Path == path && get.Scheme == corev1.URISchemeHTTPS && get.Port.StrVal == "admin", "%s: %+v", path, get)
	}
	// /startupz waits for a majority: a node without one would be killed again and again
	start := c.StartupProbe
	p.unless(reflect.DeepEqual(start.HTTPGet, c.LivenessProbe.HTTPGet), "startup: %+v", start.HTTPGet)
	minutes := r.values["startupMinutes"].(float64)
	p.unless(float64(start.PeriodSeconds*start.FailureThreshold) == minutes*60, "startup: not %v minutes", minutes)
	return p
}

func rights(r *rendering) []string {
	var p problems
	for whose, pod := range r.pods() {
		spec := pod.Spec
		isNo := func(value *bool) bool { return value != nil && !*value }
		isYes := func(value *bool) bool { return value != nil && *value }
		p.unless(isNo(spec.AutomountServiceAccountToken), "%s: a token is mounted", whose)
		p.unless(isNo(spec.EnableServiceLinks), "%s: Services set variables", whose)
		if r.account != nil {
			p.unless(spec.ServiceAccountName == r.account.Name, "%s: the account is %s", whose, spec.ServiceAccountName)
			p.unless(isNo(r.account.AutomountServiceAccountToken), "the account's token is mounted")
		}
		p.unless(!spec.HostNetwork && !spec.HostPID && !spec.HostIPC, "%s: it is in the host", whose)
		context := spec.SecurityContext
		p.unless(isYes(context.RunAsNonRoot) && *context.RunAsUser == 65532 && *context.FSGroup == 65532 &&
			context.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "%s: %+v", whose, context)
		for _, container := range spec.Containers {
			own := container.SecurityContext
			p.unless(isYes(own.ReadOnlyRootFilesystem) && isNo(own.AllowPrivilegeEscalation) &&
				slices.Equal(own.Capabilities.Drop, []corev1.Capability{"ALL"}), "%s: %+v", whose, own)
			p.unless(len(container.Command) == 0, "%s: the image has one program and no shell", whose)
			p.unless(container.Image != "" && !strings.HasSuffix(container.Image, ":"), "%s: no image", whose)
		}
	}
	return p
}

func meeting(r *rendering) []string {
	var p problems
	service := r.services[r.set.Spec.ServiceName]
	if service == nil {
		return []string{"the StatefulSet's Service " + r.set.Spec.ServiceName + " is not there"}
	}
	p.unless(service.Spec.ClusterIP == corev1.ClusterIPNone, "%s is not headless", service.Name)
	p.unless(service.Spec.PublishNotReadyAddresses, "%s hides nodes that are not ready", service.Name)
	p.unless(r.set.Spec.PodManagementPolicy == "Parallel", "the second pod waits for the first, which waits for it")
	most := r.budget.Spec.MaxUnavailable
	p.unless(most != nil && most.IntValue() == 1, "maxUnavailable is not 1")
	return p
}

func perPod(r *rendering) []string {
	var p problems
	prefix := r.values["secrets"].(map[string]any)["nodePrefix"].(string)
	if prefix == "" {
		prefix = r.set.Name + "-node-"
	}
	addresses, zones := map[string]bool{}, map[string]bool{}
	count := int(*r.set.Spec.Replicas)
	for number := range count {
		environment, err := r.environment(number, map[string]string{"topology.kubernetes.io/zone": "zone-1"})
		if err != nil {
			return problem(err)
		}
		advertise, zone := environment["PORTOLAN_NODE_ADVERTISE"], environment["PORTOLAN_NODE_ZONE"]
		p.unless(advertise == r.address(number), "pod %d is called %s", number, advertise)
		p.unless(len(validation.IsDNS1123Label(zone)) == 0, "pod %d has the zone %q", number, zone)
		addresses[advertise], zones[zone] = true, true
		files, err := r.files(number)
		if err != nil {
			return problem(err)
		}
		var seen []string
		for path, file := range files {
			if name, isCert := strings.CutPrefix(path, "/certs/"); isCert {
				seen = append(seen, name)
				wanted := secretFile{prefix + strconv.Itoa(number), name}
				p.unless(file == wanted, "pod %d: %s is %+v", number, path, file)
			}
		}
		slices.Sort(seen)
		p.unless(slices.Equal(seen, nodeFiles), "pod %d sees %v", number, seen)
	}
	p.unless(len(addresses) == count, "pods share addresses")
	isByPod := r.values["zone"].(map[string]any)["from"] == "pod"
	p.unless(!isByPod || len(zones) == count, "pods share zones")
	return p
}

// nodeFiles are what `portolan cluster prepare` makes for a node, sorted.
var nodeFiles = []string{"ca.pem", "node.key", "node.pem", "root-key", "tls.key", "tls.pem"}

func configuration(r *rendering) []string {
	var p problems
	files, err := r.files(0)
	if err != nil {
		return problem(err)
	}
	environment, _ := r.environment(0, nil)
	for _, name := range []string{"PORTOLAN_CONFIG", "PORTOLAN_CREDENTIALS_FILE"} {
		_, isThere := files[environment[name]]
		p.unless(isThere, "%s is %q, which is not there", name, environment[name])
	}
	isKept := func(path string) bool {
		return slices.ContainsFunc(r.container().VolumeMounts, func(mount corev1.VolumeMount) bool {
			return !mount.ReadOnly && strings.HasPrefix(path, mount.MountPath+"/")
		})
	}
	for section, keys := range r.settings {
		for key, value := range keys {
			path, isText := value.(string)
			if !isText || !strings.HasPrefix(path, "/") {
				continue
			}
			_, isThere := files[path]
			p.unless(isThere || isKept(path), "%s.%s = %s is neither a file nor on a volume", section, key, path)
		}
	}
	known := portNames(r)
	for name, port := range known {
		listen, _ := r.settings["listen"][name].(string)
		_, told, err := net.SplitHostPort(listen)
		p.unless(err == nil && told == strconv.Itoa(int(port)), "listen.%s = %q, and the port is %d", name, listen, port)
	}
	for name := range r.settings["listen"] {
		_, isPort := known[name]
		p.unless(isPort || name == "public_insecure", "listen.%s has no port", name)
	}
	sum := r.set.Spec.Template.Annotations["checksum/config"]
	p.unless(len(sum) == 64, "pods don't restart with their configuration")
	return p
}

// adminPort is where operators and the Job reach a node.
const adminPort = 7403

func form(r *rendering) []string {
	var p problems
	if r.job == nil {
		return nil
	}
	var nodes []string
	files := map[string]bool{}
	for _, argument := range r.job.Spec.Template.Spec.Containers[0].Args {
		if node, isNode := strings.CutPrefix(argument, "--node="); isNode {
			nodes = append(nodes, node)
		}
		if _, path, isFile := strings.Cut(argument, "=/setup/"); isFile {
			files[path] = true
		}
	}
	var wanted []string
	for number := range int(*r.set.Spec.Replicas) {
		wanted = append(wanted, fmt.Sprintf("https://%s:%d", r.address(number), adminPort))
	}
	p.unless(slices.Equal(nodes, wanted), "it asks %v", nodes)
	p.unless(portNames(r)["admin"] == adminPort, "the admin port is another one")
	p.unless(maps.Equal(files, map[string]bool{"ca.pem": true, "operator.pem": true, "operator.key": true}),
		"it reads %v", files)
	p.unless(len(r.job.Annotations) == 0, "it is a hook: --wait would wait for it for ever")
	p.unless(regexp.MustCompile(`-form-[0-9a-f]{8}$`).MatchString(r.job.Name), "its name %s does not change", r.job.Name)
	p.unless(strings.Contains(r.notes, "job/"+r.job.Name), "NOTES.txt does not name it")
	return p
}

func spread(r *rendering) []string {
	var p problems
	zone := r.values["zone"].(map[string]any)
	spec := r.set.Spec.Template.Spec
	if len(spec.TopologySpreadConstraints) != 1 {
		return []string{"not one constraint"}
	}
	constraint := spec.TopologySpreadConstraints[0]
	p.unless(constraint.MaxSkew == 1 && constraint.TopologyKey == zone["topologyKey"], "%+v", constraint)
	required := spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if zone["strict"] == false {
		p.unless(constraint.WhenUnsatisfiable == corev1.ScheduleAnyway && len(required) == 0, "it is strict")
		// Kubernetes refuses it there
		p.unless(constraint.MinDomains == nil, "minDomains is set")
		p.unless(strings.Contains(r.notes, "WARNING"), "NOTES.txt does not warn")
		return p
	}
	p.unless(constraint.WhenUnsatisfiable == corev1.DoNotSchedule, "pods may share zones")
	least := int32(zone["least"].(float64))
	if zone["from"] == "pod" {
		// one pod in each zone, or none: what a node calls its zone is true
		least = *r.set.Spec.Replicas
	}
	p.unless(constraint.MinDomains != nil && *constraint.MinDomains == least, "minDomains is not %d", least)
	p.unless(len(required) == 1 && required[0].TopologyKey == corev1.LabelHostname, "pods may share machines")
	return p
}

func grace(r *rendering) []string {
	var p problems
	drain := r.values["drainSeconds"].(float64)
	stop := r.values["preStopSeconds"].(float64)
	told, _ := r.settings["http"]["drain_timeout"].(string)
	p.unless(told == fmt.Sprintf("%.0fs", drain), "http.drain_timeout = %q", told)
	given := float64(*r.set.Spec.Template.Spec.TerminationGracePeriodSeconds)
	p.unless(given > stop+drain+3, "%.0f s are too few", given)
	lifecycle := r.container().Lifecycle
	if stop == 0 {
		p.unless(lifecycle == nil, "it sleeps")
	} else {
		p.unless(float64(lifecycle.PreStop.Sleep.Seconds) == stop, "it does not sleep %.0f s", stop)
	}
	return p
}

func monitored(r *rendering) []string {
	var p problems
	if r.monitor == nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(&r.monitor.Spec.Selector)
	if err != nil {
		return problem(err)
	}
	var found []string
	for name, service := range r.services {
		if selector.Matches(labels.Set(service.Labels)) {
			found = append(found, name)
		}
	}
	admin := r.set.Name + "-admin"
	p.unless(slices.Equal(found, []string{admin}), "it selects %v", found)
	// src/docs/metrics.md and the alerts know the job by that
	p.unless(strings.Contains(admin, "portolan") || r.values["nameOverride"] != "", "the job's name is %s", admin)
	for _, endpoint := range r.monitor.Spec.Endpoints {
		p.unless(endpoint.Port == r.services[admin].Spec.Ports[0].Name, "it asks the port %s", endpoint.Port)
		scheme := endpoint.Scheme.String()
		p.unless(endpoint.Path == "/metrics" && scheme == "https", "it asks %s %s", scheme, endpoint.Path)
		name := *endpoint.TLSConfig.ServerName
		p.unless(strings.Contains(r.notes, "--public-address="+name+" "), "no certificate is for %s", name)
		files, _ := r.files(0)
		ca := secretFile{endpoint.TLSConfig.CA.Secret.Name, endpoint.TLSConfig.CA.Secret.Key}
		p.unless(files["/certs/ca.pem"] == ca, "its authority is %+v", ca)
		p.unless(endpoint.BasicAuth.Username.Name != "" && endpoint.BasicAuth.Password.Key != "", "it has no key")
	}
	return p
}
