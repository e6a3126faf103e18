// A second judge of registers: reads histories of the fault harness and has Porcupine search an order of the
// operations of each tag. It shares no line with the first judge; only the format of the history, which is told in
// jepsen/README.md. Prints one line of JSON for each history.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// How long the search of one tag may take: beyond, nothing is proven.
const searchMax = 60 * time.Second

// Longest line of a history, in bytes: a listing of a thousand pages.
const lineBytesMax = 64 << 20

type event struct {
	Index   int64           `json:"index"`
	Process json.RawMessage `json:"process"`
	Type    string          `json:"type"`
	F       string          `json:"f"`
	Key     string          `json:"key"`
	Value   struct {
		Digest *string `json:"digest"`
		From   *string `json:"from"`
		Status int     `json:"status"`
	} `json:"value"`
}

// What was asked for. An empty digest is an absent tag.
type input struct {
	f, digest, from string
}

// What was answered. Nobody knows what became of an operation that is not known.
type output struct {
	known, refused bool
	digest         string
}

func text(digest *string) string {
	if digest == nil {
		return ""
	}
	return *digest
}

// A tag: the digest it names, or "".
var register = porcupine.Model{
	Init: func() interface{} { return "" },
	Step: func(state, in, out interface{}) (bool, interface{}) {
		held, asked, answer := state.(string), in.(input), out.(output)
		switch asked.f {
		case "get":
			return held == answer.digest, held
		case "put":
			return true, asked.digest
		case "put-if":
			matches := held == asked.from
			switch {
			case !answer.known && !matches:
				return true, held
			case answer.refused:
				return !matches, held
			default:
				return matches, asked.digest
			}
		default: // delete
			switch {
			case !answer.known:
				return true, ""
			case answer.refused:
				return held == "", held
			default:
				return held != "", ""
			}
		}
	},
}

func isRegister(f string) bool {
	return f == "put" || f == "put-if" || f == "get" || f == "delete"
}

// The operations of a history by their tags.
func read(path string) (map[string][]porcupine.Operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	tags := map[string][]porcupine.Operation{}
	open := map[string]event{}
	last := int64(0)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		var found struct {
			F     string `json:"f"`
			Index int64  `json:"index"`
		}
		if err := json.Unmarshal(lines.Bytes(), &found); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		last = found.Index
		if !isRegister(found.F) {
			continue
		}
		var line event
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("%s: event %d: %w", path, found.Index, err)
		}
		process := string(line.Process)
		if line.Type == "invoke" {
			open[process] = line
			// a tag of which nothing is known is a tag
			tags[line.Key] = append(tags[line.Key], nil...)
			continue
		}
		begun, isOpen := open[process]
		if !isOpen {
			return nil, fmt.Errorf("%s: event %d ends what was not begun", path, found.Index)
		}
		// the process is retired: what it began stays open
		if line.Type == "info" {
			continue
		}
		delete(open, process)
		if operation, counts := ended(begun, line); counts {
			tags[begun.Key] = append(tags[begun.Key], operation)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	// what nobody knows about may take effect behind everything else, which is the same as never
	for _, begun := range open {
		if begun.F == "get" {
			continue
		}
		last++
		tags[begun.Key] = append(tags[begun.Key], porcupine.Operation{
			Input: asked(begun), Call: begun.Index, Output: output{}, Return: last,
		})
	}
	return tags, nil
}

func asked(begun event) input {
	return input{f: begun.F, digest: text(begun.Value.Digest), from: text(begun.Value.From)}
}

// An operation that ended; false if it certainly did not happen and its refusal shows nothing.
func ended(begun, end event) (porcupine.Operation, bool) {
	answer := output{known: true, digest: text(end.Value.Digest)}
	if end.Type == "fail" {
		shows := begun.F == "put-if" && end.Value.Status == 412 || begun.F == "delete" && end.Value.Status == 404
		if !shows {
			return porcupine.Operation{}, false
		}
		answer.refused = true
	}
	return porcupine.Operation{Input: asked(begun), Call: begun.Index, Output: answer, Return: end.Index}, true
}

// Opinion is what is said of one history.
type Opinion struct {
	Tags       int      `json:"tags"`
	Operations int      `json:"operations"`
	Illegal    []string `json:"illegal"`
	Unknown    []string `json:"unknown"`
}

func judge(path string) (Opinion, error) {
	opinion := Opinion{Illegal: []string{}, Unknown: []string{}}
	tags, err := read(path)
	if err != nil {
		return opinion, err
	}
	for key, operations := range tags {
		opinion.Tags++
		opinion.Operations += len(operations)
		switch porcupine.CheckOperationsTimeout(register, operations, searchMax) {
		case porcupine.Illegal:
			opinion.Illegal = append(opinion.Illegal, key)
		case porcupine.Unknown:
			opinion.Unknown = append(opinion.Unknown, key)
		}
	}
	sort.Strings(opinion.Illegal)
	sort.Strings(opinion.Unknown)
	return opinion, nil
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: porcupine-judge HISTORY…")
		os.Exit(2)
	}
	for _, path := range os.Args[1:] {
		opinion, err := judge(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		line, err := json.Marshal(opinion)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		fmt.Println(string(line))
	}
}
