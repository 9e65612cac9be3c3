package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
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
