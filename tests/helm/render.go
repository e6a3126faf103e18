package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	release   = "portolan"
	namespace = "registry"
	// What the chart is rendered for: labels of zones on pods are there.
	kubernetes = "v1.35.0"
)

// bench renders one chart.
type bench struct{ chart string }

// rendering is what one file of values makes.
type rendering struct {
	values chartutil.Values
	// Every document, as text, in a fixed order.
	text    string
	notes   string
	objects []metav1.Object

	set      *appsv1.StatefulSet
	job      *batchv1.Job
	budget   *policyv1.PodDisruptionBudget
	policy   *networkingv1.NetworkPolicy
	account  *corev1.ServiceAccount
	monitor  *monitoringv1.ServiceMonitor
	services map[string]*corev1.Service
	// portolan.toml, as text and by section and key.
	toml     string
	settings map[string]map[string]any
}

var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
		monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// file renders with the values of a file.
func (b bench) file(path string) (*rendering, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return b.render(string(text))
}

// render renders with values: first as they are, each later one on top.
func (b bench) render(values ...string) (*rendering, error) {
	chart, err := loader.LoadDir(b.chart)
	if err != nil {
		return nil, err
	}
	given := map[string]any{}
	for _, text := range values {
		read, err := chartutil.ReadValues([]byte(text))
		if err != nil {
			return nil, err
		}
		given = chartutil.CoalesceTables(read, given)
	}
	version, err := chartutil.ParseKubeVersion(kubernetes)
	if err != nil {
		return nil, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	if !chartutil.IsCompatibleRange(chart.Metadata.KubeVersion, version.Version) {
		return nil, fmt.Errorf("the chart is not for Kubernetes %s", version.Version)
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, given, options, capabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return nil, err
	}
	r := &rendering{values: all["Values"].(chartutil.Values), services: map[string]*corev1.Service{}}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if filepath.Base(name) == "NOTES.txt" {
			r.notes = files[name]
		} else if err := r.take(name, files[name]); err != nil {
			return nil, err
		}
	}
	return r, r.complete()
}

// take decodes the documents of one rendered template.
func (r *rendering) take(name, text string) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var content any
		if err := yaml.Unmarshal(document, &content); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		// comments alone
		if content == nil {
			continue
		}
		r.text += "---\n" + string(document)
		if err := r.decode(document); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, document)
		}
	}
}

func (r *rendering) decode(document []byte) error {
	decoded, _, err := decoder.Decode(document, nil, nil)
	if err != nil {
		return err
	}
	switch object := decoded.(type) {
	case *appsv1.StatefulSet:
		r.set = object
	case *batchv1.Job:
		r.job = object
	case *policyv1.PodDisruptionBudget:
		r.budget = object
	case *networkingv1.NetworkPolicy:
		r.policy = object
	case *monitoringv1.ServiceMonitor:
		r.monitor = object
	case *corev1.ServiceAccount:
		r.account = object
	case *corev1.Service:
		r.services[object.Name] = object
	case *corev1.ConfigMap:
		r.toml = object.Data["portolan.toml"]
	default:
		return fmt.Errorf("%s is not expected here", reflect.TypeOf(decoded))
	}
	r.objects = append(r.objects, decoded.(metav1.Object))
	return nil
}

func (r *rendering) complete() error {
	if r.set == nil || r.budget == nil || len(r.set.Spec.Template.Spec.Containers) != 1 {
		return errors.New("no StatefulSet with one container, or no PodDisruptionBudget")
	}
	if _, err := toml.Decode(r.toml, &r.settings); err != nil {
		return fmt.Errorf("portolan.toml: %w\n%s", err, r.toml)
	}
	return nil
}

// pods are the templates of pods, by whose they are.
func (r *rendering) pods() map[string]*corev1.PodTemplateSpec {
	pods := map[string]*corev1.PodTemplateSpec{"node": &r.set.Spec.Template}
	if r.job != nil {
		pods["form"] = &r.job.Spec.Template
	}
	return pods
}

// container is that of the nodes.
func (r *rendering) container() *corev1.Container {
	return &r.set.Spec.Template.Spec.Containers[0]
}

// podName is the name that Kubernetes gives to a pod of the StatefulSet.
func (r *rendering) podName(number int) string {
	return fmt.Sprintf("%s-%d", r.set.Name, number)
}

// address is the name in the DNS that Kubernetes gives to a pod of the StatefulSet.
func (r *rendering) address(number int) string {
	domain := r.values["clusterDomain"].(string)
	return fmt.Sprintf("%s.%s.%s.svc.%s", r.podName(number), r.set.Spec.ServiceName, namespace, domain)
}

// environment is what a pod's container gets, as the kubelet makes it; labels are those of the pod.
func (r *rendering) environment(number int, labels map[string]string) (map[string]string, error) {
	made := map[string]string{}
	for _, variable := range r.container().Env {
		value := variable.Value
		if source := variable.ValueFrom; source != nil {
			switch path := source.FieldRef.FieldPath; {
			case path == "metadata.name":
				value = r.podName(number)
			case strings.HasPrefix(path, "metadata.labels['"):
				value = labels[strings.TrimSuffix(strings.TrimPrefix(path, "metadata.labels['"), "']")]
			default:
				return nil, fmt.Errorf("%s: the field %s is not known here", variable.Name, path)
			}
		}
		value, err := expand(value, made)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", variable.Name, err)
		}
		made[variable.Name] = value
	}
	return made, nil
}

// expand replaces $(NAME) by variables that stand before.
func expand(text string, variables map[string]string) (string, error) {
	for name, value := range variables {
		text = strings.ReplaceAll(text, "$("+name+")", value)
	}
	if strings.Contains(text, "$(") {
		return "", fmt.Errorf("%q names a variable that does not stand before it", text)
	}
	return text, nil
}

// secretFile is one key of a Secret.
type secretFile struct{ secret, key string }

// files are the files of Secrets and ConfigMaps that a node's container sees, by path. Those of the ConfigMap have no
// Secret.
func (r *rendering) files(number int) (map[string]secretFile, error) {
	environment, err := r.environment(number, nil)
	if err != nil {
		return nil, err
	}
	found := map[string]secretFile{}
	for _, mount := range r.container().VolumeMounts {
		content := map[string]secretFile{}
		for _, volume := range r.set.Spec.Template.Spec.Volumes {
			if volume.Name != mount.Name {
				continue
			}
			switch {
			case volume.Projected != nil:
				for _, source := range volume.Projected.Sources {
					for _, item := range source.Secret.Items {
						content[item.Path] = secretFile{source.Secret.Name, item.Key}
					}
				}
			case volume.Secret != nil:
				for _, item := range volume.Secret.Items {
					content[item.Path] = secretFile{volume.Secret.SecretName, item.Key}
				}
			case volume.ConfigMap != nil:
				content["portolan.toml"] = secretFile{"", "portolan.toml"}
			}
		}
		part, err := expand(mount.SubPathExpr, environment)
		if err != nil {
			return nil, err
		}
		for path, file := range content {
			if part == "" {
				found[mount.MountPath+"/"+path] = file
			} else if path == part {
				found[mount.MountPath] = file
			}
		}
	}
	return found, nil
}

// refused tells what is wrong when a file is taken, or refused for another reason than the one in its first line.
func (b bench) refused(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return problem(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	says, isTold := strings.CutPrefix(line, "# says: ")
	_, err = b.file(path)
	switch {
	case !isTold:
		return []string{"the first line does not say why"}
	case err == nil:
		return []string{"is taken"}
	case !strings.Contains(err.Error(), says):
		return []string{fmt.Sprintf("%q is not in: %s", says, err)}
	}
	return nil
}
