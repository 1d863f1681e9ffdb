package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/config"
)

func configCommand(std stdio) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and explain configuration files"}
	cmd.AddCommand(validateCommand(std), exampleCommand(std), schemaCommand(std))
	return cmd
}

func validateCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration as serve would, files and certificates included",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			l, err := build(cmd.Context(), cfg, surroundings{logger: slog.New(slog.DiscardHandler), read: config.ReadFile}, nil)
			if err != nil {
				return err
			}
			defer l.close()
			if _, err := loadIdentities(cfg); err != nil {
				return err
			}
			if _, err := cacheOptions(cfg); err != nil {
				return err
			}
			if err := checkPreload(cfg); err != nil {
				return err
			}
			for _, warning := range cfg.Warnings {
				fmt.Fprintf(std.err, "warning: %v\n", warning)
			}
			fmt.Fprintf(std.out, "%s is valid: %d stores, %d verifiers, %d rules\n", args[0], len(cfg.Stores), len(cfg.Verifiers), len(cfg.Policy.Rules))
			return nil
		},
	}
}

func exampleCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a complete configuration with comments",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(std.out, config.Example())
			return err
		},
	}
}

func schemaCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := schema()
			if err != nil {
				return err
			}
			_, err = std.out.Write(schema)
			return err
		},
	}
}

// schema describes the file with the options of every component that this
// binary knows.
func schema() ([]byte, error) {
	components := map[string]map[string]any{"stores": {}, "verifiers": {}}
	for name, k := range storeKinds() {
		components["stores"][name] = k.options
	}
	for name, k := range verifierKinds() {
		components["verifiers"][name] = k.options
	}
	text, err := config.Schema(components)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return text, nil
}
