package prep

import (
	"embed"
	"io/fs"
	"strings"
)

// The JSON Schemas of what the commands print are made from the Go types that
// they print (main_test.go), so that neither can be without the other.
//
//go:embed schemas/*.json
var schemas embed.FS

// OutputSchema is the JSON Schema of a command's JSON: report, access, doctor,
// check-pod or version.
func OutputSchema(name string) ([]byte, error) {
	return schemas.ReadFile("schemas/" + name + ".schema.json")
}

// OutputSchemas are the names of those that there are, sorted.
func OutputSchemas() []string {
	var names []string
	files, err := fs.Glob(schemas, "schemas/*.json")
	if err != nil {
		return nil
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(file, "schemas/"), ".schema.json"))
	}
	return names
}
