package main

import (
	"bytes"
	"encoding"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/urfave/cli/v2"

	"volprep/prep"
	"volprep/prep/manifest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"volprep": main})
}

// TestCommandLine runs testdata's scripts against the command as a user meets it.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"valid": valid},
		UpdateScripts:       os.Getenv("VOLPREP_UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			directory, err := os.Getwd()
			env.Setenv("EXAMPLES", directory+"/examples")
			return err
		},
		Condition: func(condition string) (bool, error) {
			switch condition {
			case "root":
				_, err := exec.LookPath("setpriv")
				met := os.Geteuid() == 0 && err == nil
				if !met && os.Getenv("VOLPREP_E2E") == "require" {
					t.Fatal("required, but: needs root and setpriv")
				}
				return met, nil
			default:
				return false, nil
			}
		},
	})
}

// What README.md shows of the two questions is what the script has compared.
func TestTheREADMEShowsWhatIsSaid(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/script/two-questions.txtar")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range archive.Files {
		if len(file.Data) == 0 || !strings.Contains(string(readme), string(file.Data)) {
			t.Errorf("README.md does not show %s as testdata/script/two-questions.txtar has it", file.Name)
		}
	}
}

// printed are the types of the commands' JSON, by the name of their schema.
var printed = map[string]struct {
	title string
	value any
}{
	"report": {"What volprep apply, plan and verify print, and --report writes", prep.Report{}},
	"access": {"What volprep access prints", []prep.Access{}},
	"doctor": {"What volprep doctor prints", prep.Diagnosis{}},
	"check-pod": {"What volprep check-pod prints", struct {
		Findings []manifest.Finding `json:"findings"`
	}{}},
	"version": {"What volprep version prints", build{}},
}

type object = map[string]any

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// schemaOf is the JSON Schema of what encoding/json makes of a type. strict
// allows no field beside; what is published does, for outputs may grow.
func schemaOf(t reflect.Type, strict bool) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), strict)
	case t.Implements(textMarshaler):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return object{"type": "integer"}
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), strict)}
	}
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if !t.Field(i).IsExported() || name == "-" {
			continue
		}
		properties[name] = schemaOf(t.Field(i).Type, strict)
		if options != "omitempty" {
			required = append(required, name)
		}
	}
	schema := object{"type": "object", "properties": properties, "required": required}
	if strict {
		schema["additionalProperties"] = false
	}
	return schema
}

func TestTheSchemasOfOutputsAreFresh(t *testing.T) {
	names := []string{}
	for name, output := range printed {
		names = append(names, name)
		schema := schemaOf(reflect.TypeOf(output.value), false)
		schema["$schema"], schema["title"] = "https://json-schema.org/draft/2020-12/schema", output.title
		want, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		if os.Getenv("VOLPREP_UPDATE") != "" {
			if err := os.WriteFile("prep/schemas/"+name+".schema.json", want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := prep.OutputSchema(name); err != nil || !bytes.Equal(have, want) {
			t.Errorf("prep/schemas/%s.schema.json is not what the type makes (%v): VOLPREP_UPDATE=1 go test .", name, err)
		}
	}
	slices.Sort(names)
	if got := prep.OutputSchemas(); os.Getenv("VOLPREP_UPDATE") == "" && !slices.Equal(got, names) {
		t.Errorf("there are schemas of %q, want %q", got, names)
	}
}

// valid is a script's command: `valid SCHEMA FILE` holds a file against the
// strict form of a schema.
func valid(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: valid SCHEMA FILE")
	}
	schema, err := json.Marshal(schemaOf(reflect.TypeOf(printed[args[0]].value), true))
	ts.Check(err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	ts.Check(err)
	compiler := jsonschema.NewCompiler()
	ts.Check(compiler.AddResource("output.json", document))
	compiled, err := compiler.Compile("output.json")
	ts.Check(err)
	output, err := jsonschema.UnmarshalJSON(strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(compiled.Validate(output))
}

func TestHelpFitsATerminal(t *testing.T) {
	c := &command{}
	for _, one := range c.app().Commands {
		for _, shown := range append([]*cli.Command{one}, one.Subcommands...) {
			var help bytes.Buffer
			app := c.app()
			app.Writer = &help
			name := []string{"volprep", one.Name}
			if shown != one {
				name = append(name, shown.Name)
			}
			if err := app.Run(append(name, "--help")); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(help.String(), shown.Usage[:min(len(shown.Usage), 20)]) {
				t.Errorf("%q shows no help of its own:\n%s", name, help.String())
			}
			for line := range strings.Lines(help.String()) {
				if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 {
					t.Errorf("%q is wider than 80 columns: %s", name, line)
				}
			}
		}
	}
}
