// Command helm-check renders a chart with many values and checks what comes out, without a cluster.
//
//	helm-check CHART CASES
//	helm-check --pods IMAGE CHART CASES
//
// CASES/values/*.yaml must render, CASES/refused/*.yaml must be refused with what stands in their first line. With
// PORTOLAN_BIN the product checks the configuration of every node, and makes what the chart wants in its Secrets. With
// --pods its pods run as containers of a Docker engine (pods.go).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

type tally struct{ passed, failed int }

// that counts a check: passed if there are no problems.
func (t *tally) that(name string, problems []string) {
	if len(problems) == 0 {
		t.passed++
		return
	}
	t.failed++
	fmt.Printf("FAILED %s\n  %s\n", name, strings.Join(problems, "\n  "))
}

func problem(err error) []string {
	if err == nil {
		return nil
	}
	return []string{err.Error()}
}

func main() {
	arguments, image := os.Args[1:], ""
	if len(arguments) > 1 && arguments[0] == "--pods" {
		image, arguments = arguments[1], arguments[2:]
	}
	if len(arguments) != 2 {
		fmt.Fprintln(os.Stderr, "usage: helm-check [--pods IMAGE] CHART CASES")
		os.Exit(2)
	}
	bench := bench{chart: arguments[0]}
	files := func(dir string) []string {
		found, err := filepath.Glob(filepath.Join(arguments[1], dir, "*.yaml"))
		if err != nil || len(found) == 0 {
			fmt.Fprintf(os.Stderr, "no cases in %s\n", dir)
			os.Exit(2)
		}
		return found
	}
	var t tally
	product := productOf(os.Getenv("PORTOLAN_BIN"))
	defer product.close()
	first := map[string]*rendering{}
	for _, path := range files("values") {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		r, err := bench.file(path)
		t.that(name+": renders and decodes", problem(err))
		if err != nil {
			continue
		}
		first[name] = r
		for _, check := range checks {
			t.that(name+": "+check.name, check.of(r))
		}
		if expect := expected[name]; expect == nil {
			t.that(name+": is expected", []string{"this file has no entry in expected"})
		} else {
			t.that(name+": shows what was asked for", expect(r))
		}
		product.all(&t, name, r)
		fmt.Printf("%-16s %d objects\n", name, len(r.objects))
	}
	bench.between(&t, first)
	for _, path := range files("refused") {
		t.that(filepath.Base(path)+" is refused", bench.refused(path))
	}
	if product != nil {
		t.that("every section of the configuration is known", product.sections(bench.chart))
	}
	if product != nil && image != "" {
		bench.pods(&t, product, image)
	}
	if product == nil {
		fmt.Println("PORTOLAN_BIN is not set: the product has checked nothing")
	}
	fmt.Printf("%d passed, %d failed\n", t.passed, t.failed)
	if t.failed > 0 {
		product.close()
		os.Exit(1)
	}
}
