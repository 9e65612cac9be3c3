// Command volprep prepares volumes before an inference server starts: it
// makes and hands over the directories of a layout, as uid 0 with CAP_CHOWN
// and CAP_FOWNER alone, so that the server needs no capability at all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"volprep/prep"
	"volprep/prep/manifest"
	"volprep/prep/render"
	"volprep/spec"
)

// Exit statuses that no report gives.
const (
	exitUsage  = 2
	exitLayout = 3
	exitDrift  = 4
)

// version and commit are set by the release build; else the module's are shown.
var (
	version = ""
	commit  = ""
)

func main() {
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the command line as a value: it gives the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// What is made gets its mode from the layout, never from this process's umask.
	syscall.Umask(0)
	if threadsAllowed() < threadsWanted {
		runtime.GOMAXPROCS(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c := &command{stdin: stdin, stdout: stdout, stderr: stderr}
	err := c.app().RunContext(ctx, args)
	var status exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	default:
		fmt.Fprintf(stderr, "volprep: %v\n", err)
		fmt.Fprintln(stderr, "volprep help shows the commands, volprep COMMAND -h an example")
		return exitUsage
	}
}

// threadsWanted is how many threads Go's runtime may start with some workers.
// Where a cgroup allows fewer the runtime would crash, so it is held to one
// processor, with which it needs seven.
const threadsWanted = 32

// threadsAllowed is the limit of the container's pids controller, of either
// version of cgroups(7).
func threadsAllowed() int {
	for _, name := range []string{"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"} {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if limit, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return limit
		}
	}
	return math.MaxInt
}

// exitError ends a command whose output has said everything already.
type exitError int

func (e exitError) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// command holds the streams of one run.
type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (c *command) app() *cli.App {
	cli.HelpPrinter = printHelp
	cli.VersionPrinter = func(*cli.Context) { fmt.Fprintln(c.stdout, "volprep", versionText()) }
	app := &cli.App{
		Name:                   "volprep",
		Usage:                  "prepare volumes for servers that run without any privilege",
		Version:                versionText(),
		HideVersion:            true,
		Reader:                 c.stdin,
		Writer:                 c.stdout,
		ErrWriter:              c.stderr,
		EnableBashCompletion:   true,
		Suggest:                true,
		UseShortOptionHandling: true,
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError:           func(_ *cli.Context, err error, _ bool) error { return err },
		Action:                 c.welcome,
		Commands: []*cli.Command{
			{Name: "apply", Usage: "make the volumes as the layout says", Action: c.apply,
				Description: example("volprep apply -f examples/quickstart.yaml --root ./demo"),
				Flags:       flags(layoutFlags, runFlags, applyFlags)},
			{Name: "plan", Usage: "show what apply would do, and change nothing", Action: c.plan,
				Description: example("volprep plan -f layout.yaml --format json"),
				Flags:       flags(layoutFlags, runFlags, planFlags)},
			{Name: "verify", Usage: "show in what the volumes differ from the layout", Action: c.verify,
				Description: example("volprep verify -f layout.yaml"),
				Flags:       flags(layoutFlags, runFlags)},
			{Name: "access", Usage: "show what an identity may do at a path, and what decides", ArgsUsage: "PATH…", Action: c.access,
				Description: example("volprep access -f layout.yaml --as 1000:1000,2000 /models/hub"),
				Flags:       flags(layoutFlags, runFlags, accessFlags)},
			{Name: "check-pod", Usage: "hold Kubernetes manifests and Compose files against the layout", ArgsUsage: "MANIFEST…", Action: c.checkPod,
				Description: example("volprep check-pod -f layout.yaml pod.yaml compose.yaml"),
				Flags:       flags(layoutFlags)},
			{Name: "capture", Usage: "write a layout that describes trees as they are", ArgsUsage: "PATH…", Action: c.capture,
				Description: example("volprep capture /srv/models > layout.yaml"),
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "depth", Value: 4, Usage: "look at `N` levels of directories below each path", EnvVars: variable("depth")},
					&cli.StringFlag{Name: "root", Usage: "look below `DIR`, and leave it out of the layout's paths", EnvVars: variable("root")},
				}},
			{Name: "validate", Usage: "check the layout alone", Action: c.validate,
				Description: example("volprep validate -f layout.yaml"),
				Flags:       flags(layoutFlags)},
			{Name: "render", Usage: "print what runs the layout, with the least privilege", Subcommands: c.renderers(),
				Description: example("volprep render kubernetes -f layout.yaml --as runtime > pod.yaml")},
			{Name: "doctor", Usage: "show what this process and the layout's volumes allow", Action: c.doctor,
				Description: example("volprep doctor -f layout.yaml"),
				Flags:       flags(layoutFlags, runFlags)},
			{Name: "schema", Usage: "print the JSON Schema of the layout, or of an output", ArgsUsage: "[report|access|doctor|check-pod|version]", Action: c.schema,
				Description: example("volprep schema > layout.schema.json")},
			{Name: "seccomp", Usage: "print a seccomp profile for the container that runs volprep", Action: c.seccomp,
				Description: example("volprep seccomp > s.json; docker run --security-opt seccomp=s.json …")},
			{Name: "version", Usage: "print the version", Action: c.version,
				Description: example("volprep version --format json"),
				Flags:       []cli.Flag{formatFlag()}},
			{Name: "completion", Usage: "print the completion script of a shell", ArgsUsage: "bash|zsh|fish", Action: c.completion,
				Description: example("source <(volprep completion bash)")},
		},
	}
	for _, command := range app.Commands {
		command.OnUsageError = suggesting(command.Flags)
	}
	return app
}

// example is the end of each command's help.
func example(line string) string { return "Example:\n  " + line }

// variable names the environment variable of a flag.
func variable(flag string) []string {
	return []string{"VOLPREP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func flags(groups ...func() []cli.Flag) []cli.Flag {
	var all []cli.Flag
	for _, group := range groups {
		all = append(all, group()...)
	}
	return all
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Value: "text", Usage: "output as `text|json`", EnvVars: variable("format")}
}

// layoutFlags say where the layout and the values of its variables come from.
func layoutFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the layout's `FILE`, - for standard input (default: VOLPREP_LAYOUT's text, /etc/volprep/layout.yaml)", EnvVars: variable("file")},
		&cli.StringSliceFlag{Name: "set", Usage: "a variable's value, `NAME=VALUE`, again for more (or VOLPREP_VAR_NAME)"},
		formatFlag(),
	}
}

// runFlags are for commands that look at volumes.
func runFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "root", Usage: "put every path of the layout below `DIR`", EnvVars: variable("root")},
		&cli.StringSliceFlag{Name: "only", Usage: "take only what lies at or below `PATH`, again for more", EnvVars: variable("only")},
		&cli.StringFlag{Name: "borrow", Value: string(prep.BorrowAuto), Usage: "look into closed directories by borrowing them: `auto|on-mismatch|never`", EnvVars: variable("borrow")},
		&cli.IntFlag{Name: "jobs", Usage: "workers of a walk over contents (default: the CPUs that the cgroup allows)", EnvVars: variable("jobs")},
		&cli.DurationFlag{Name: "timeout", Usage: "end the run after this time", EnvVars: variable("timeout")},
		&cli.StringFlag{Name: "log-format", Value: "auto", Usage: "logs as `console|json|auto`", EnvVars: variable("log-format")},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "the least `LEVEL` that is logged: debug, info, warn, error", EnvVars: variable("log-level")},
		&cli.BoolFlag{Name: "allow-unknown", Usage: "let an expectation pass that cannot be seen", EnvVars: variable("allow-unknown")},
		&cli.StringFlag{Name: "report", Usage: "write the JSON report to `FILE`", EnvVars: variable("report")},
		&cli.BoolFlag{Name: "no-sandbox", Usage: "do without Landlock and the filter of system calls", EnvVars: variable("no-sandbox")},
	}
}

// applyFlags are for apply alone.
func applyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "require-caps", Value: "at-most", Usage: "with more capabilities than CHOWN and FOWNER: refuse to start, or warn: `exact|at-most`", EnvVars: variable("require-caps")},
		&cli.StringFlag{Name: "shard", Usage: "walk this part of the contents, `INDEX/COUNT` (default: JOB_COMPLETION_INDEX of JOB_COMPLETION_COUNT)", EnvVars: variable("shard")},
	}
}

// accessFlags are for access alone.
func accessFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "as", Usage: "an identity of the layout, or `UID[:GID[,GID…]]`", Required: true},
		&cli.BoolFlag{Name: "after", Usage: "as the volumes would be after apply"},
	}
}

// renderFlags are for render alone.
func renderFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "as", Usage: "the server: an identity of the layout, or `UID[:GID[,GID…]]` (default: the layout's only one)"},
		&cli.StringFlag{Name: "name", Usage: "the `NAME` of the server's pod, container or service (default: the identity's)"},
		&cli.StringFlag{Name: "image", Value: "volprep", Usage: "volprep's `IMAGE`", EnvVars: variable("image")},
		&cli.StringSliceFlag{Name: "volume", Usage: "where a volume comes from, `PATH=SOURCE`: a claim or named volume, a host's directory, or emptyDir; again for more"},
	}
}

// planFlags are for plan alone.
func planFlags() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "exit-code", Usage: "exit with status 4 where something is to be done", EnvVars: variable("exit-code")}}
}

// defaultLayout is where an image or a ConfigMap puts the layout.
const defaultLayout = "/etc/volprep/layout.yaml"

// sizeLimit is one byte more than a layout may have, so that one that is too
// large is refused without being read to its end.
const sizeLimit = 1<<20 + 1

// readLayout finds the layout's text and gives it with its name for messages.
func (c *command) readLayout(ctx *cli.Context) (name string, text []byte, err error) {
	name = ctx.String("file")
	inline, given := os.LookupEnv("VOLPREP_LAYOUT")
	switch {
	case name == "-":
		text, err = io.ReadAll(io.LimitReader(c.stdin, sizeLimit))
		return "standard input", text, err
	case given && (name == "" || !ctx.IsSet("file")):
		return "VOLPREP_LAYOUT", []byte(inline), nil
	case name == "":
		name = defaultLayout
	}
	file, err := os.Open(name)
	if err != nil {
		return name, nil, fmt.Errorf("opening the layout: %w: name it with -f, or give its text in VOLPREP_LAYOUT", err)
	}
	defer file.Close()
	text, err = io.ReadAll(io.LimitReader(file, sizeLimit))
	return name, text, err
}

// layout reads and parses; what is wrong with it has been printed when it fails.
func (c *command) layout(ctx *cli.Context) (*spec.Layout, error) {
	if ctx.Args().Present() {
		return nil, fmt.Errorf("%q is one word too many: the layout is given with -f", ctx.Args().First())
	}
	return c.parse(ctx)
}

// parse reads and parses the layout for commands that take other words too.
func (c *command) parse(ctx *cli.Context) (*spec.Layout, error) {
	layout, _, err := c.parseText(ctx, nil)
	return layout, err
}

// parseText gives the text too. values are those of variables that have none.
func (c *command) parseText(ctx *cli.Context, values map[string]string) (*spec.Layout, []byte, error) {
	if format := ctx.String("format"); format != "text" && format != "json" {
		return nil, nil, fmt.Errorf("--format %s: must be text or json", format)
	}
	variables := map[string]string{}
	maps.Copy(variables, values)
	for _, entry := range os.Environ() {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, "VOLPREP_VAR_") {
			variables[strings.TrimPrefix(name, "VOLPREP_VAR_")] = value
		}
	}
	for _, assignment := range ctx.StringSlice("set") {
		name, value, ok := strings.Cut(assignment, "=")
		if !ok {
			return nil, nil, fmt.Errorf("--set %s: must be NAME=VALUE", assignment)
		}
		variables[name] = value
	}
	name, text, err := c.readLayout(ctx)
	if err != nil {
		fmt.Fprintln(c.stderr, "volprep:", err)
		return nil, nil, exitError(exitLayout)
	}
	layout, problems := spec.Parse(name, text, spec.Options{Variables: variables, LookupUser: lookupIn("/etc/passwd"), LookupGroup: lookupIn("/etc/group")})
	if len(problems.List) > 0 {
		fmt.Fprintln(c.stderr, problems.Error())
	}
	if layout == nil {
		openSinks("").terminate(problems.Error())
		return nil, nil, exitError(exitLayout)
	}
	return layout, text, nil
}

// lookupIn looks names up in a file of the form of passwd(5) and group(5),
// where there is one. os/user would bring cgo.
func lookupIn(file string) spec.Lookup {
	return func(name string) (uint32, bool) {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, false
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Split(line, ":"); len(fields) > 2 && fields[0] == name {
				id, err := strconv.ParseUint(fields[2], 10, 32)
				return uint32(id), err == nil
			}
		}
		return 0, false
	}
}

// options makes the engine's options of the flags.
func (c *command) options(ctx *cli.Context) (prep.Options, error) {
	options := prep.Options{
		Root:   ctx.String("root"),
		Only:   ctx.StringSlice("only"),
		Borrow: prep.Borrow(ctx.String("borrow")),
		Jobs:   ctx.Int("jobs"),

		AllowUnknown: ctx.Bool("allow-unknown"),
	}
	switch options.Borrow {
	case prep.BorrowAuto, prep.BorrowOnMismatch, prep.BorrowNever:
	default:
		return options, fmt.Errorf("--borrow %s: must be auto, on-mismatch or never", options.Borrow)
	}
	for _, path := range options.Only {
		if !strings.HasPrefix(path, "/") {
			return options, fmt.Errorf("--only %s: must be an absolute path of the layout", path)
		}
	}
	if options.Jobs < 1 {
		options.Jobs = runtime.GOMAXPROCS(0)
	}
	level, err := zerolog.ParseLevel(ctx.String("log-level"))
	if err != nil {
		return options, fmt.Errorf("--log-level %s: must be debug, info, warn or error", ctx.String("log-level"))
	}
	var out io.Writer
	switch format := ctx.String("log-format"); {
	case format == "json", format == "auto" && !isTerminal(c.stderr):
		out = c.stderr
	case format == "console", format == "auto":
		out = zerolog.ConsoleWriter{Out: c.stderr, TimeFormat: time.TimeOnly, NoColor: !coloured(c.stderr)}
	default:
		return options, fmt.Errorf("--log-format %s: must be console, json or auto", format)
	}
	options.Log = zerolog.New(out).Level(level).With().Timestamp().Logger()
	return options, nil
}

// isTerminal tells whether a stream ends at a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// coloured follows https://no-color.org.
func coloured(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == ""
}

// look runs one of the engine's commands on the layout and prints its report.
func (c *command) look(ctx *cli.Context, engine func(context.Context, *spec.Layout, prep.Options) *prep.Report, print func(*prep.Report, io.Writer, bool)) (*prep.Report, error) {
	options, err := c.options(ctx)
	if err != nil {
		return nil, err
	}
	layout, err := c.layout(ctx)
	if err != nil {
		return nil, err
	}
	run := ctx.Context
	if limit := ctx.Duration("timeout"); limit > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(run, limit)
		defer cancel()
	}
	files := openSinks(ctx.String("report"))
	defer files.close()
	report, err := answered(run, func() *prep.Report {
		sandbox := prep.Sandbox{Landlock: "off: --no-sandbox", Seccomp: "off: --no-sandbox"}
		if !ctx.Bool("no-sandbox") {
			sandbox = prep.Confine(layout, options)
		}
		options.Log.Debug().Str("landlock", sandbox.Landlock).Str("seccomp", sandbox.Seccomp).Msg("sandbox")
		report := engine(run, layout, options)
		report.Sandbox = &sandbox
		return report
	})
	if err != nil {
		text := fmt.Sprintf("volprep %s: %v\n", ctx.Command.Name, err)
		fmt.Fprint(c.stderr, text)
		files.terminate(text)
		return nil, exitError(prep.ClassFailed)
	}
	if err := c.print(ctx, files, report, print); err != nil {
		return nil, err
	}
	if status := report.ExitStatus(); status != 0 {
		return report, exitError(status)
	}
	return report, nil
}

// patience is how long a run that was told to end may take for its last call.
const patience = 2 * time.Second

// answered waits for a run. One that was told to end does so at its next call;
// one whose call never returns, for the server of a file system is gone, is left behind.
func answered(ctx context.Context, run func() *prep.Report) (*prep.Report, error) {
	done := make(chan *prep.Report, 1)
	go func() { done <- run() }()
	select {
	case report := <-done:
		return report, nil
	case <-ctx.Done():
	}
	select {
	case report := <-done:
		return report, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("a file system does not answer (%w): look at the servers of the volumes; what was done is kept, run again to go on", context.Cause(ctx))
	}
}

// print writes a report where it belongs: standard output, --report, and
// after a failure the termination log.
func (c *command) print(ctx *cli.Context, files sinks, report *prep.Report, print func(*prep.Report, io.Writer, bool)) error {
	if name := ctx.String("report"); name != "" {
		if err := files.writeReport(report); err != nil {
			report.AddFailure(&prep.Failure{Path: name, Doing: "writing the report", Err: err, Mend: "name a file that this process may write", Class: prep.ClassFailed})
		}
	}
	if report.ExitStatus() != 0 {
		files.terminate(report.Termination())
	}
	var err error
	if ctx.String("format") == "json" {
		err = report.JSON(c.stdout)
	} else {
		var text strings.Builder
		print(report, &text, coloured(c.stdout))
		_, err = io.WriteString(c.stdout, text.String())
	}
	if err != nil {
		fmt.Fprintln(c.stderr, "volprep: writing standard output:", err)
	}
	return nil
}

// sinks are the files that a run writes at its end. They are opened at its
// start, for the sandbox lets none be opened later.
type sinks struct {
	report    *os.File
	reportErr error
	// termination is nil outside a pod.
	termination *os.File
}

// terminationLog is where the kubelet reads why a container ended. It is there
// before the container starts, or nobody reads it: it is never made.
const terminationLog = "/dev/termination-log"

func openSinks(report string) sinks {
	var s sinks
	if report != "" {
		s.report, s.reportErr = os.OpenFile(report, os.O_WRONLY|os.O_CREATE, 0o644)
	}
	if file, err := os.OpenFile(terminationLog, os.O_WRONLY, 0); err == nil {
		s.termination = file
	}
	return s
}

func (s sinks) close() {
	for _, file := range []*os.File{s.report, s.termination} {
		if file != nil {
			file.Close()
		}
	}
}

// writeReport replaces what an earlier run left in the file.
func (s sinks) writeReport(report *prep.Report) error {
	if s.reportErr != nil {
		return s.reportErr
	}
	if info, err := s.report.Stat(); err == nil && info.Mode().IsRegular() {
		if err := s.report.Truncate(0); err != nil {
			return err
		}
	}
	return report.JSON(s.report)
}

// terminate leaves a short account for the kubelet.
func (s sinks) terminate(text string) {
	if s.termination != nil && s.termination.Truncate(0) == nil {
		io.WriteString(s.termination, text[:min(len(text), 4096)])
	}
}

func (c *command) apply(ctx *cli.Context) error {
	shard, shards, err := shardOf(ctx.String("shard"))
	if err != nil {
		return err
	}
	had, err := prep.CurrentPrivileges()
	if err != nil {
		return err
	}
	const allowed = prep.CapChown | prep.CapFowner
	switch beyond := had.Permitted &^ allowed; {
	case ctx.String("require-caps") != "exact" && ctx.String("require-caps") != "at-most":
		return fmt.Errorf("--require-caps %s: must be exact or at-most", ctx.String("require-caps"))
	case beyond != 0 && ctx.String("require-caps") == "exact":
		fmt.Fprintf(c.stderr, "volprep: this process was given %s beyond {chown,fowner}, and --require-caps is exact: drop ALL and add CHOWN and FOWNER\n", beyond)
		return exitError(prep.ClassNotPermitted)
	}
	left, err := prep.Reduce(allowed)
	keep := func(capabilities prep.Capabilities) error {
		_, err := prep.Reduce(capabilities)
		return err
	}
	if errors.Is(err, prep.ErrCgo) {
		if had.Permitted != 0 {
			fmt.Fprintln(c.stderr, "volprep: warning:", err)
		}
		keep = nil
	} else if err != nil {
		return err
	}
	engine := func(run context.Context, layout *spec.Layout, options prep.Options) *prep.Report {
		options.Capabilities, options.Keep = &left, keep
		options.Shard, options.Shards = shard, shards
		options.Progress, options.ProgressEvery = c.progress(options.Log)
		report := prep.Apply(run, layout, options)
		report.Capabilities.Had = had.Permitted.Names()
		return report
	}
	_, err = c.look(ctx, engine, (*prep.Report).Account)
	return err
}

// shardOf reads INDEX/COUNT, and without it what an Indexed Job tells its pods.
func shardOf(text string) (index, count int, err error) {
	if text == "" {
		text = os.Getenv("JOB_COMPLETION_INDEX") + "/" + os.Getenv("JOB_COMPLETION_COUNT")
		if strings.HasPrefix(text, "/") || strings.HasSuffix(text, "/") {
			return 0, 0, nil
		}
	}
	first, second, _ := strings.Cut(text, "/")
	index, err1 := strconv.Atoi(first)
	count, err2 := strconv.Atoi(second)
	if err1 != nil || err2 != nil || index < 0 || index >= count {
		return 0, 0, fmt.Errorf("--shard %s: must be INDEX/COUNT, with an index from 0 below the count", text)
	}
	return index, count, nil
}

// progress tells how far a walk over contents has come: on a terminal by a
// line that is written over, elsewhere by a log line every 10 seconds.
func (c *command) progress(log zerolog.Logger) (func(string, prep.ContentsProgress), time.Duration) {
	began := time.Now()
	if isTerminal(c.stderr) {
		return func(volume string, at prep.ContentsProgress) {
			rate := float64(at.Scanned) / time.Since(began).Seconds()
			fmt.Fprintf(c.stderr, "\r%q: %d entries, %d changed, %.0f/s \x1b[K", volume, at.Scanned, at.Changed, rate)
		}, 200 * time.Millisecond
	}
	return func(volume string, at prep.ContentsProgress) {
		if time.Since(began) < 10*time.Second {
			return
		}
		log.Info().Str("path", volume).Int64("scanned", at.Scanned).Int64("changed", at.Changed).Int64("failed", at.Failed).Msg("walking")
	}, 10 * time.Second
}

func (c *command) access(ctx *cli.Context) error {
	paths := ctx.Args().Slice()
	if len(paths) == 0 {
		return errors.New("access needs at least one path of the layout")
	}
	options, err := c.options(ctx)
	if err != nil {
		return err
	}
	layout, err := c.parse(ctx)
	if err != nil {
		return err
	}
	as, err := credentials(layout, ctx.String("as"))
	if err != nil {
		return err
	}
	answers := prep.AccessAt(ctx.Context, layout, options, as, paths, ctx.Bool("after"))
	if ctx.String("format") == "json" {
		return json.NewEncoder(c.stdout).Encode(answers)
	}
	for _, answer := range answers {
		answer.Text(c.stdout, coloured(c.stdout))
	}
	return nil
}

// credentials are an identity's, or those that the text spells out.
func credentials(layout *spec.Layout, as string) (prep.Credentials, error) {
	for _, identity := range layout.Identities {
		if identity.Name == as {
			return prep.Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}, nil
		}
	}
	return prep.ParseCredentials(as)
}

func (c *command) plan(ctx *cli.Context) error {
	report, err := c.look(ctx, prep.Plan, (*prep.Report).Tree)
	if err == nil && ctx.Bool("exit-code") && len(report.Actions) > 0 {
		return exitError(exitDrift)
	}
	return err
}

func (c *command) verify(ctx *cli.Context) error {
	_, err := c.look(ctx, prep.Verify, (*prep.Report).Verdict)
	return err
}

func (c *command) validate(ctx *cli.Context) error {
	layout, err := c.layout(ctx)
	if err != nil {
		return err
	}
	directories := 0
	for _, volume := range layout.Volumes {
		directories += 1 + len(volume.Directories)
	}
	fmt.Fprintf(c.stdout, "%s: %d volumes, %d directories, %d expectations: valid\n", layout.Source, len(layout.Volumes), directories, len(layout.Expect))
	return nil
}

// renderers are the commands below render, one a target.
func (c *command) renderers() []*cli.Command {
	where := func(mounted string) func() []cli.Flag {
		return func() []cli.Flag {
			return []cli.Flag{&cli.StringFlag{Name: "layout", Value: "inline", Usage: "the layout's place: `inline|" + mounted + "`"}}
		}
	}
	kustomize := func() []cli.Flag {
		return []cli.Flag{&cli.BoolFlag{Name: "kustomize", Usage: "a component that adds volprep to the Deployment --name"}}
	}
	return []*cli.Command{
		{Name: "kubernetes", Usage: "a Pod, with volprep as its init container",
			Description: example("volprep render kubernetes -f layout.yaml --as runtime --volume /logs=emptyDir"),
			Flags:       flags(layoutFlags, renderFlags, where("configmap"), kustomize),
			Action: func(ctx *cli.Context) error {
				if ctx.Bool("kustomize") {
					return c.render(ctx, "configmap", render.PodVariables(), render.Kustomize)
				}
				return c.render(ctx, "configmap", render.PodVariables(), render.Kubernetes)
			}},
		{Name: "compose", Usage: "a Compose file, with volprep as its first service",
			Description: example("volprep render compose -f layout.yaml --volume /models=/srv/models"),
			Flags:       flags(layoutFlags, renderFlags, where("file")),
			Action:      func(ctx *cli.Context) error { return c.render(ctx, "file", nil, render.Compose) }},
		{Name: "podman", Usage: "a Quadlet unit that reads /etc/volprep/layout.yaml",
			Description: example("volprep render podman -f layout.yaml --as runtime > volprep.container"),
			Flags:       flags(layoutFlags, renderFlags),
			Action:      func(ctx *cli.Context) error { return c.render(ctx, "", nil, render.Podman) }},
		{Name: "systemd", Usage: "a unit for a host that reads /etc/volprep/layout.yaml",
			Description: example("volprep render systemd -f layout.yaml --as runtime > volprep.service"),
			Flags:       flags(layoutFlags, renderFlags),
			Action:      func(ctx *cli.Context) error { return c.render(ctx, "", nil, render.Systemd) }},
	}
}

// render prints one target. mounted is the word of --layout by which the
// layout is no environment variable; "" where it never is one.
func (c *command) render(ctx *cli.Context, mounted string, values map[string]string, target func(render.Options) ([]byte, error)) error {
	if ctx.Args().Present() {
		return fmt.Errorf("%q is one word too many: the layout is given with -f", ctx.Args().First())
	}
	where := ctx.String("layout")
	if mounted != "" && where != "inline" && where != mounted {
		return fmt.Errorf("--layout %s: must be inline or %s", where, mounted)
	}
	sources := map[string]string{}
	for _, volume := range ctx.StringSlice("volume") {
		at, source, _ := strings.Cut(volume, "=")
		if source == "" {
			return fmt.Errorf("--volume %s: must be PATH=SOURCE", volume)
		}
		sources[at] = source
	}
	layout, text, err := c.parseText(ctx, values)
	if err != nil {
		return err
	}
	as, err := server(layout, ctx.String("as"))
	if err != nil {
		return err
	}
	name := ctx.String("name")
	if name == "" {
		name = as
	}
	who, err := credentials(layout, as)
	if err != nil {
		return err
	}
	if name[0] >= '0' && name[0] <= '9' {
		name = "server"
	}
	rendered, err := target(render.Options{Layout: layout, Text: text, As: who, Name: name, Image: ctx.String("image"), Mounted: where == mounted, Sources: sources})
	if err != nil {
		return fmt.Errorf("render %s: %w", ctx.Command.Name, err)
	}
	_, err = c.stdout.Write(rendered)
	return err
}

// server is the identity that is meant where there is no choice.
func server(layout *spec.Layout, as string) (string, error) {
	switch {
	case as != "":
		return as, nil
	case len(layout.Identities) == 1:
		return layout.Identities[0].Name, nil
	}
	var names []string
	for _, identity := range layout.Identities {
		names = append(names, identity.Name)
	}
	return "", fmt.Errorf("--as: name the server, %s or UID[:GID[,GID…]]", strings.Join(names, ", "))
}

// doctor works without a layout too: then it tells of the process alone.
// manifestAt reads a file of manifests, - for standard input.
func (c *command) manifestAt(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(c.stdin)
	}
	return os.ReadFile(name)
}

func (c *command) checkPod(ctx *cli.Context) error {
	if ctx.NArg() == 0 {
		return errors.New("check-pod: name a manifest, or - for standard input")
	}
	layout, err := c.parse(ctx)
	if err != nil {
		return err
	}
	var set manifest.Set
	for _, name := range ctx.Args().Slice() {
		text, err := c.manifestAt(name)
		if err != nil {
			return err
		}
		if err := set.Decode(name, text); err != nil {
			fmt.Fprintln(c.stderr, "volprep:", err)
			return exitError(exitLayout)
		}
	}
	findings := manifest.Check(layout, &set)
	if ctx.String("format") == "json" {
		err = findings.JSON(c.stdout)
	} else {
		findings.Text(c.stdout)
	}
	if err == nil && findings.Errors() > 0 {
		return exitError(prep.ClassExpectation)
	}
	return err
}

// capture writes the layout to standard output, and on standard error what it does not describe.
func (c *command) capture(ctx *cli.Context) error {
	if ctx.NArg() == 0 {
		return errors.New("capture: name a directory")
	}
	var roots []string
	for _, name := range ctx.Args().Slice() {
		if strings.HasPrefix(name, "-") {
			return fmt.Errorf("capture: %s: flags come before the paths", name)
		}
		root, err := filepath.Abs(name)
		if err != nil {
			return err
		}
		roots = append(roots, root)
	}
	captured, err := prep.Capture(ctx.Context, roots, max(ctx.Int("depth"), 0), prep.Options{Root: ctx.String("root")})
	var failure *prep.Failure
	if errors.As(err, &failure) {
		fmt.Fprintln(c.stderr, "volprep:", failure)
		return exitError(failure.Class)
	}
	if err != nil {
		return err
	}
	text, err := spec.Format(captured.Layout)
	if err == nil {
		_, err = c.stdout.Write(text)
	}
	if err != nil {
		return err
	}
	captured.Remarks(c.stderr)
	if len(captured.Unseen)+len(captured.Unnamed) > 0 {
		return exitError(prep.ClassFailed)
	}
	return nil
}

func (c *command) doctor(ctx *cli.Context) error {
	options, err := c.options(ctx)
	if err != nil {
		return err
	}
	var layout *spec.Layout
	_, inline := os.LookupEnv("VOLPREP_LAYOUT")
	if _, err := os.Stat(defaultLayout); err == nil || inline || ctx.String("file") != "" {
		if layout, err = c.layout(ctx); err != nil {
			return err
		}
	}
	diagnosis := prep.Doctor(layout, options)
	if ctx.String("format") == "json" {
		return diagnosis.JSON(c.stdout)
	}
	diagnosis.Text(c.stdout, coloured(c.stdout))
	return nil
}

func (c *command) schema(ctx *cli.Context) error {
	schema := spec.Schema()
	if name := ctx.Args().First(); name != "" {
		var err error
		if schema, err = prep.OutputSchema(name); err != nil {
			return fmt.Errorf("schema %s: there is one of %s, and without a name that of the layout", name, strings.Join(prep.OutputSchemas(), ", "))
		}
	}
	_, err := c.stdout.Write(schema)
	return err
}

func (c *command) seccomp(*cli.Context) error {
	profile, err := prep.OCIProfile()
	if err == nil {
		_, err = c.stdout.Write(profile)
	}
	return err
}

// build says what this binary was made from.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func thisBuild() build {
	b := build{Version: version, Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" {
		b.Version = info.Main.Version
	}
	if ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				b.Commit = setting.Value
			}
		}
	}
	return b
}

func versionText() string {
	b := thisBuild()
	return fmt.Sprintf("%s %s %s/%s", b.Version, b.Go, b.OS, b.Arch)
}

func (c *command) version(ctx *cli.Context) error {
	if ctx.String("format") == "json" {
		return json.NewEncoder(c.stdout).Encode(thisBuild())
	}
	fmt.Fprintln(c.stdout, "volprep", versionText())
	return nil
}

// helpWidth is how wide help is, in columns.
const helpWidth = 78

// printHelp is cli's, but for a command's own help, which fits a terminal.
func printHelp(w io.Writer, template string, data any) {
	command, ok := data.(*cli.Command)
	// cli gives each command one below it, which is help.
	below := func(c *cli.Command) bool { return c.Name != "help" }
	if !ok || slices.ContainsFunc(command.Subcommands, below) {
		cli.HelpPrinterCustom(w, template, data, nil)
		return
	}
	fmt.Fprintf(w, "%s\n\n", wrapped(command.HelpName+" - "+command.Usage, "", "  "))
	fmt.Fprintln(w, strings.TrimSpace("Usage:\n  "+command.HelpName+" [FLAGS] "+command.ArgsUsage))
	fmt.Fprint(w, "\nFlags:\n")
	for _, flag := range command.VisibleFlags() {
		documented, ok := flag.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, value := strings.ReplaceAll(documented.GetUsage(), "`", ""), ""
		if parts := strings.Split(documented.GetUsage(), "`"); len(parts) == 3 {
			value = " " + parts[1]
		} else if documented.TakesValue() {
			value = " VALUE"
		}
		var names []string
		for _, name := range flag.Names() {
			names = append(names, strings.Repeat("-", min(len(name), 2))+name)
		}
		slices.Reverse(names)
		if text := documented.GetDefaultText(); documented.TakesValue() && text != "" && text != "0" && text != "0s" {
			usage += " (default: " + text + ")"
		}
		if variables := documented.GetEnvVars(); len(variables) > 0 {
			usage += " [$" + strings.Join(variables, ", $") + "]"
		}
		fmt.Fprintf(w, "  %s%s\n%s\n", strings.Join(names, ", "), value, wrapped(usage, "        ", "        "))
	}
	if command.Description != "" {
		fmt.Fprintf(w, "\n%s\n", command.Description)
	}
}

// wrapped breaks text between words, with one indent for the first line and one for the rest.
func wrapped(text, first, rest string) string {
	var out strings.Builder
	line := first
	for i, word := range strings.Fields(text) {
		if i > 0 && len(line)+1+len(word) > helpWidth {
			out.WriteString(line + "\n")
			line = rest + word
			continue
		}
		if i > 0 {
			line += " "
		}
		line += word
	}
	return out.String() + line
}

// suggesting adds to the error for a flag that is not there the one that was likely meant.
func suggesting(flags []cli.Flag) cli.OnUsageErrorFunc {
	return func(_ *cli.Context, err error, _ bool) error {
		if _, name, ok := strings.Cut(err.Error(), "flag provided but not defined: -"); ok {
			if near := cli.SuggestFlag(flags, strings.TrimLeft(name, "-"), false); near != "" {
				return fmt.Errorf("there is no flag -%s: did you mean %s?", name, near)
			}
		}
		return err
	}
}

// welcome is volprep without a command.
func (c *command) welcome(ctx *cli.Context) error {
	if name := ctx.Args().First(); name != "" {
		if near := cli.SuggestCommand(ctx.App.Commands, name); near != "" {
			return fmt.Errorf("%q is no command: d%s", name, strings.TrimPrefix(near, "D"))
		}
		return fmt.Errorf("%q is no command", name)
	}
	fmt.Fprint(c.stderr, `volprep prepares volumes before a server starts. What next?

  volprep validate -f layout.yaml    is the layout right?
  volprep plan -f layout.yaml        what would be done, with which capability?
  volprep apply -f layout.yaml       do it
  volprep help                       all commands
`)
	return exitError(exitUsage)
}

// completions are the scripts by which a shell asks volprep itself for words:
// for those that may follow, or with a dash, for the flags.
var completions = map[string]string{
	"bash": `_volprep() {
  local words dash=
  [[ ${COMP_WORDS[COMP_CWORD]} == -* ]] && dash=-
  words=$("${COMP_WORDS[@]:0:$COMP_CWORD}" $dash --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _volprep volprep
`,
	"zsh": `#compdef volprep
_volprep() {
  local -a answers dash
  [[ $PREFIX == -* ]] && dash=(-)
  answers=("${(@f)$("${(@)words[1,CURRENT-1]}" $dash --generate-bash-completion 2>/dev/null)}")
  _describe ${dash:+-o} volprep answers || _files
}
compdef _volprep volprep
`,
	"fish": `function __volprep_answers
  set -l words (commandline -opc)
  string match -q -- '-*' (commandline -ct); and set -a words -
  command $words --generate-bash-completion 2>/dev/null
end
complete -c volprep -f -n __fish_use_subcommand
complete -c volprep -a "(__volprep_answers)"
`,
}

func (c *command) completion(ctx *cli.Context) error {
	script, ok := completions[ctx.Args().First()]
	if !ok {
		return fmt.Errorf("completion %q: must be bash, zsh or fish", ctx.Args().First())
	}
	_, err := io.WriteString(c.stdout, script)
	return err
}
