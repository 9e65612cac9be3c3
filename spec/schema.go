package spec

import (
	_ "embed"
	"encoding/json"
)

//go:embed layout.schema.json
var schema []byte

// Schema is the layout's JSON Schema (draft 2020-12), made from the table of
// keys that the parser uses. It takes what an editor would flag; what needs
// more than one value to be seen is the parser's alone.
func Schema() []byte { return schema }

type object = map[string]any

// schemaTypes are the forms of values that are no mapping of their own.
var schemaTypes = map[string]object{
	"version":      {"const": 1},
	"text":         {"type": []string{"string", "integer", "number", "boolean"}},
	"bool":         {"type": "boolean"},
	"id":           {"anyOf": []object{{"type": "integer", "minimum": 0, "maximum": maxID}, {"type": "string", "pattern": `^(0|[1-9][0-9]{0,9}|.*\$\{.*)$`}}},
	"owner":        {"type": []string{"string", "integer"}, "minimum": 0, "maximum": maxID, "minLength": 1},
	"group":        {"type": []string{"string", "integer"}, "minimum": 0, "maximum": maxID, "minLength": 1},
	"groupList":    {"type": "array", "items": object{"type": []string{"string", "integer"}, "minimum": 0, "maximum": maxID}},
	"mode":         {"anyOf": []object{{"type": "integer", "minimum": 0}, {"type": "string", "pattern": `^((0o)?[0-7]{1,5}|[ugoa]*([-+=][ugorwxXst]*)+(,[ugoa]*([-+=][ugorwxXst]*)+)*|.*\$\{.*)$`}}},
	"umask":        {"anyOf": []object{{"type": "integer", "minimum": 0}, {"type": "string", "pattern": `^((0o)?[0-7]{1,4}|.*\$\{.*)$`}}},
	"acl":          {"anyOf": []object{{"type": "array", "items": object{"type": "string"}}, {"type": "string"}}},
	"absolutePath": {"type": "string", "pattern": `^(/|.*\$\{)`},
	"relativePath": {"type": "string", "pattern": `^[^/]`},
	"globList":     {"type": "array", "items": object{"type": "string", "minLength": 1}},
	"identityName": {"type": "string", "minLength": 1},
	"verbs":        {"type": "array", "items": object{"enum": words["verb"]}},
	"creation":     {"type": "object", "additionalProperties": object{"type": "array", "items": object{"enum": words["verb"]}}},
	"variables":    {"type": "object", "additionalProperties": object{"$ref": "#/$defs/variable"}},
	"groups":       {"type": "object", "additionalProperties": object{"$ref": "#/$defs/id"}},
	"identities":   {"type": "object", "additionalProperties": object{"$ref": "#/$defs/identity"}},
	"volumes":      {"type": "array", "minItems": 1, "items": object{"$ref": "#/$defs/volume"}},
	"directories":  {"type": "array", "items": object{"$ref": "#/$defs/directory"}},
	"expect":       {"type": "array", "items": object{"$ref": "#/$defs/expectation"}},
}

// makeSchema builds the schema from the table of keys.
func makeSchema() ([]byte, error) {
	definitions := object{}
	for name, form := range schemaTypes {
		definitions[name] = form
	}
	for name, values := range words {
		definitions[name] = object{"enum": values}
	}
	for name, keys := range mappings {
		if name != "layout" {
			definitions[name] = mappingSchema(keys)
		}
	}
	root := mappingSchema(mappings["layout"])
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "volprep layout, version 1"
	root["$defs"] = definitions
	text, err := json.MarshalIndent(root, "", "  ")
	return append(text, '\n'), err
}

func mappingSchema(keys mapping) object {
	properties := object{}
	required := []string{}
	for _, key := range keys {
		properties[key.name] = object{"$ref": "#/$defs/" + key.of, "description": key.description}
		if key.required {
			required = append(required, key.name)
		}
	}
	schema := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}
