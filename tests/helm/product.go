package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// product is the program that the chart runs.
type product struct {
	// A folder of its own, with the program as bin/portolan.
	dir string
}

func productOf(binary string) *product {
	if binary == "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "helm-check-")
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o700)
	}
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err == nil {
		err = os.Symlink(binary, filepath.Join(dir, "bin", "portolan"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return &product{dir}
}

func (p *product) close() {
	if p != nil {
		os.RemoveAll(p.dir)
	}
}

// run runs a program in a folder, with these variables and no others; tells its exit status and what it said.
func (p *product) run(dir string, variables map[string]string, name string, arguments ...string) (int, string) {
	within, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(within, name, arguments...)
	command.Dir = dir
	command.Env = []string{"PATH=" + filepath.Join(p.dir, "bin") + ":/usr/bin:/bin", "HOME=" + p.dir}
	for key, value := range variables {
		command.Env = append(command.Env, key+"="+value)
	}
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	err := command.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return -1, err.Error()
	}
	return command.ProcessState.ExitCode(), said.String()
}

func (p *product) portolan() string { return filepath.Join(p.dir, "bin", "portolan") }

// all has the product look at a rendering.
func (p *product) all(t *tally, name string, r *rendering) {
	if p == nil {
		return
	}
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.that(name+": a folder", problem(err))
		return
	}
	found := p.prepare(dir, r)
	t.that(name+": the command of NOTES.txt makes all Secrets", found)
	if len(found) > 0 {
		return
	}
	t.that(name+": the product takes every node's configuration", p.configurations(dir, r))
	if r.job != nil {
		t.that(name+": the product takes the Job's command", p.form(dir, r))
	}
}

// sections checks that every section of the configuration is the chart's own or may be set.
func (p *product) sections(chart string) []string {
	text, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		return problem(err)
	}
	var schema struct {
		Properties struct {
			Settings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		return problem(err)
	}
	var found problems
	_, said := p.run(p.dir, nil, p.portolan(), "config", "reference")
	sections := regexp.MustCompile(`(?m)^\[([a-z0-9_]+)\]$`).FindAllStringSubmatch(said, -1)
	found.unless(len(sections) > 5, "it knows %v", sections)
	for _, section := range sections {
		_, isFree := schema.Properties.Settings.Properties[section[1]]
		isOwn := slices.Contains([]string{"node", "listen", "cluster", "tls"}, section[1])
		found.unless(isFree != isOwn, "[%s] is new: let settings have it, or set it", section[1])
	}
	return found
}

// prepare runs the command that NOTES.txt shows.
func (p *product) prepare(dir string, r *rendering) []string {
	from := strings.Index(r.notes, "  portolan cluster prepare")
	if from < 0 {
		return []string{"NOTES.txt does not show it"}
	}
	var lines []string
	for _, line := range strings.Split(r.notes[from:], "\n") {
		lines = append(lines, line)
		if !strings.HasSuffix(line, "\\") {
			break
		}
	}
	if status, said := p.run(dir, nil, "bash", "-c", strings.Join(lines, "\n")); status != 0 {
		return []string{fmt.Sprintf("status %d: %s", status, said)}
	}
	var found problems
	for number := range int(*r.set.Spec.Replicas) {
		made, err := os.ReadDir(filepath.Join(dir, "setup", "nodes", r.podName(number)))
		var names []string
		for _, entry := range made {
			names = append(names, entry.Name())
		}
		found.unless(err == nil && slices.Equal(names, nodeFiles), "%s has %v, %v", r.podName(number), names, err)
	}
	for _, name := range []string{"ca.pem", "operator.pem", "operator.key"} {
		_, err := os.Stat(filepath.Join(dir, "setup", "operators", "setup", name))
		found.unless(err == nil, "the operator has no %s", name)
	}
	return found
}

// real is where a file of a node's container stands here.
func (p *product) real(dir string, r *rendering, number int, path string) string {
	if name, isCert := strings.CutPrefix(path, "/certs/"); isCert {
		return filepath.Join(dir, "setup", "nodes", r.podName(number), name)
	}
	return filepath.Join(dir, "s3-secret")
}

// configurations has the product check portolan.toml with every node's environment. Files of Secrets stand elsewhere
// here, which a flag tells; that they are where the file says is checked without the product.
func (p *product) configurations(dir string, r *rendering) []string {
	file := filepath.Join(dir, "portolan.toml")
	if err := errors.Join(
		os.WriteFile(file, []byte(r.toml), 0o600),
		os.WriteFile(filepath.Join(dir, "s3-secret"), []byte("secret\n"), 0o600),
	); err != nil {
		return problem(err)
	}
	flags := func(number int) []string {
		made := []string{"--config", file}
		for section, keys := range r.settings {
			for key, value := range keys {
				path, isText := value.(string)
				if isText && (strings.HasPrefix(path, "/certs/") || strings.HasPrefix(path, "/s3/")) {
					made = append(made, "--set", fmt.Sprintf("%s.%s=%s", section, key, p.real(dir, r, number, path)))
				}
			}
		}
		return made
	}
	config := func(number int, zone, command string, more ...string) (int, string) {
		environment, err := r.environment(number, map[string]string{corev1.LabelTopologyZone: zone})
		if err != nil {
			return -1, err.Error()
		}
		// the file is named by the flag, and the shape of the rest is the pod's
		delete(environment, "PORTOLAN_CONFIG")
		arguments := slices.Concat([]string{"config", command}, flags(number), more)
		return p.run(dir, environment, p.portolan(), arguments...)
	}
	var found problems
	for number := range int(*r.set.Spec.Replicas) {
		zone := fmt.Sprintf("zone-%d", number%3)
		status, said := config(number, zone, "check")
		found.unless(status == 0 && strings.Contains(said, "the configuration is good"), "pod %d: %s", number, said)
		for _, line := range strings.Split(said, "\n") {
			isKnown := !strings.HasPrefix(line, "warning:") || strings.Contains(line, "because listen.public_insecure says so")
			found.unless(isKnown, "pod %d: %s", number, line)
		}
		if r.values["zone"].(map[string]any)["from"] == "pod" {
			zone = r.podName(number)
		}
		_, said = config(number, zone, "print-effective")
		for _, line := range []string{
			fmt.Sprintf("zone = %q # ", zone), fmt.Sprintf("advertise = %q # ", r.address(number)),
			`data_dir = "/data/portolan" # `,
		} {
			found.unless(strings.Contains(said, "\n"+line), "pod %d: %s is not in effect", number, line)
		}
	}
	// what it would say of a mistake that the schema can't know
	status, said := config(0, "zone-0", "check", "--set", "gc.graze=1h")
	found.unless(status == 2 && strings.Contains(said, "did you mean grace?"), "a mistake is taken: %d, %s", status, said)
	if r.values["zone"].(map[string]any)["from"] == "label" {
		status, said := config(0, "", "check")
		isTold := status == 2 && strings.Contains(said, "the pod has no label")
		found.unless(isTold, "a pod without a zone starts: %d, %s", status, said)
	}
	return found
}

// form runs the Job's command where no node can be found: it gets as far as asking them.
func (p *product) form(dir string, r *rendering) []string {
	var arguments []string
	for _, argument := range r.job.Spec.Template.Spec.Containers[0].Args {
		argument = strings.Replace(argument, "=/setup/", "="+filepath.Join(dir, "setup", "operators", "setup")+"/", 1)
		if strings.HasPrefix(argument, "--wait=") {
			argument = "--wait=1s"
		}
		arguments = append(arguments, argument)
	}
	status, said := p.run(dir, nil, p.portolan(), arguments...)
	if status != 1 || !strings.Contains(said, "did not answer; a cluster is founded only when all its nodes say") {
		return []string{fmt.Sprintf("status %d: %s", status, said)}
	}
	return nil
}
