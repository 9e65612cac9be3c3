package render

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Compose writes a Compose file: volprep once, then the server.
func Compose(o Options) ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	volumes, err := o.volumes()
	if err != nil {
		return nil, err
	}
	// A new named volume is root's, and so may be a directory of the host.
	n := o.need(volumes, func(volume) bool { return false })
	var mounts, serverMounts, named []*yaml.Node
	for _, v := range volumes {
		kind := "volume"
		switch {
		case v.source == emptyDir:
			return nil, fmt.Errorf("--volume %s=%s: a tmpfs is each service's own; name a volume, or a directory", v.Path, v.source)
		case v.host():
			kind = "bind"
		default:
			named = append(named, scalar(v.source), flow())
		}
		mount := []pair{{key: "type", value: scalar(kind)}, {key: "source", value: plain(v.source)}, {key: "target", value: plain(v.Path)}}
		mounts = append(mounts, flow(mount...))
		mounted, readOnly := o.view(v)
		if readOnly {
			mount = append(mount, pair{key: "read_only", value: scalar(true)})
		}
		if mounted {
			serverMounts = append(serverMounts, flow(mount...))
		}
	}
	environment := block()
	for _, v := range o.given() {
		environment.Content = append(environment.Content, scalar("VOLPREP_VAR_"+v.Name), quoted(interpolated(v.Value)))
	}
	prepMounts := mounts
	if o.Mounted {
		prepMounts = append([]*yaml.Node{flow(pair{key: "type", value: scalar("bind")}, pair{key: "source", value: scalar("./layout.yaml")},
			pair{key: "target", value: scalar("/etc/volprep/layout.yaml")}, pair{key: "read_only", value: scalar(true)})}, mounts...)
	} else {
		environment.Content = append(environment.Content, scalar("VOLPREP_LAYOUT"), literal(interpolated(string(o.Text))))
	}
	if len(environment.Content) == 0 {
		environment = nil
	}
	var declared *yaml.Node
	if len(named) > 0 {
		declared = &yaml.Node{Kind: yaml.MappingNode, Content: named}
	}
	services := block(
		pair{key: "prep", value: block(
			pair{key: "image", value: plain(o.Image)},
			pair{key: "user", value: quoted(fmt.Sprintf("%d:%d", n.UID, n.GID))},
			pair{key: "group_add", value: row(numbers(o.As.Groups)), why: "by the server's groups volprep looks in without borrowing"},
			pair{key: "cap_drop", value: row([]string{"ALL"}), why: n.why},
			pair{key: "cap_add", value: row(n.added())},
			pair{key: "security_opt", value: row([]string{"no-new-privileges"})},
			pair{key: "read_only", value: scalar(true)},
			pair{key: "network_mode", value: scalar("none")},
			pair{key: "restart", value: scalar("no")},
			pair{key: "environment", value: environment},
			pair{key: "volumes", value: list(prepMounts...)},
		)},
		pair{key: label(o.Name), value: block(
			pair{key: "image", value: scalar(label(o.Name)), why: "the server's own image, command and ports"},
			pair{key: "user", value: quoted(fmt.Sprintf("%d:%d", o.As.UID, o.As.GID))},
			pair{key: "group_add", value: row(numbers(o.As.Groups))},
			pair{key: "cap_drop", value: row([]string{"ALL"})},
			pair{key: "security_opt", value: row([]string{"no-new-privileges"})},
			pair{key: "read_only", value: scalar(true)},
			pair{key: "volumes", value: list(serverMounts...)},
			pair{key: "depends_on", value: block(pair{key: "prep", value: flow(pair{key: "condition", value: scalar("service_completed_successfully")})}), why: "not only started: done"},
		)},
	)
	return documents("volprep once, then "+o.Name+" ("+o.As.String()+") without any capability.\n", block(
		pair{key: "version", value: scalar("3.8"), why: "for docker-compose 1; newer ones do without"},
		pair{key: "services", value: services},
		pair{key: "volumes", value: declared},
	))
}

// interpolated keeps Compose from putting values in the place of ${NAME}.
func interpolated(text string) string { return strings.ReplaceAll(text, "$", "$$") }

func plain(text string) *yaml.Node { return scalar(interpolated(text)) }

// numbers are ids as strings, as Compose's schema wants them.
func numbers(ids []uint32) []string {
	var texts []string
	for _, id := range ids {
		texts = append(texts, fmt.Sprint(id))
	}
	return texts
}
