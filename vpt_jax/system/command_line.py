"""Command-line entry point of all programs: config file with overrides, signal handlers, one-line errors, help."""

import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vpt_jax.system import stopping
from vpt_jax.system.compilation_cache import use_compilation_cache
from vpt_jax.system.config_files import config_argument, find_config, find_configs
from vpt_jax.system.config_help import describe_config
from vpt_jax.system.disk_errors import explain_disk_error
from vpt_jax.system.errors import MissingFileError, UserError
from vpt_jax.system.output import prepare_output
from vpt_jax.system.paths import (
    NoHomeError,
    RemotePathError,
    expand_argument,
    expand_config,
    local_path,
    refuse_remote_paths,
    refuse_remote_settings,
)
from vpt_jax.system.printable import escape_output
from vpt_jax.system.renamed_fields import (
    RenamedFieldError,
    explain_missing_field,
    field_names,
    new_names_hint,
    refuse_renamed_fields,
)
from vpt_jax.system.seeds import SeedError, check_seed

_COMMANDS = Path(__file__).parents[1] / "commands"


def run(main: Callable[[ConfigDict], object], default: str, module: str = "__main__") -> None:
    """Parse `--config=NAME[:VARIANT]` or FILE[:VARIANT], and `--config.FIELD=VALUE`; call `main` with the config.

    Args:
        main: the program.
        default: name of the default config, of those in `vpt_jax.configs`.
        module: name of the module whose docstring and flags are the program's help.

    `--help` prints the docstring and all fields of the config. A `UserError` ends the program with its message, without
    a traceback. SIGTERM and SIGHUP stop it as Ctrl-C does (`stopping.py`). A URL in place of a local path ends it
    before `main`. Control characters in the output are escaped, whatever their source.
    """
    prepare_output()
    with _one_line_errors(default):
        flag = config_flags.DEFINE_config_file("config", find_config(default), "Config, and its variant.")

    def print_fields() -> None:
        name = config_argument(sys.argv[1:], default)
        with _one_line_errors():
            try:
                fields = describe_config(find_config(name))
            except ValueError as error:  # an unknown variant
                sys.exit(f"error: {error}")
        print(f"\nFields of {name} (another config: --config=NAME[:VARIANT] or --config=FILE[:VARIANT]):\n{fields}")

    def checked_main() -> None:
        config = _read_config(flag)
        refuse_remote_paths(config)
        use_compilation_cache(config)
        main(config)

    _run(checked_main, module, print_fields)


def run_plain(main: Callable[[], object], module: str = "__main__") -> None:
    """Run a program that has flags but no config, with the signal handlers, one-line errors and help of `run`."""
    prepare_output()
    _run(main, module, lambda: None)


def _run(main: Callable[[], object], module: str, print_fields: Callable[[], None]) -> None:
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(as_called((sys.modules[module].__doc__ or "").strip()))
        print_fields()
        own = flags.FLAGS.main_module_help() if module == "__main__" else flags.FLAGS.module_help(module)
        if own := own.partition(":")[2].strip("\n"):
            print(f"\nFlags:\n{own}")
        return
    escape_output()

    def guarded_main(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs every detail of every save
        stopping.install()
        try:
            refuse_remote_flags()
            main()
        except UserError as error:
            sys.exit(f"error: {as_called(str(error))}")
        except KeyboardInterrupt:
            print("\ninterrupted; run the same command again to resume", file=sys.stderr)
            stopping.exit_now(stopping.EXIT_STATUS)
        except Exception as error:
            if (line := explain_disk_error(error, _output_folders())) is None:
                raise
            sys.exit(f"error: {line}")

    app.run(guarded_main, flags_parser=_parse_flags)


def as_called(text: str) -> str:
    """Replace `python launch/NAME.py` by `vpt-NAME`, and config files by names, if an installed command is running."""
    if not Path(sys.argv[0]).name.startswith("vpt-"):
        return text
    text = re.sub(r"(?:python )?launch/(\w+)\.py", _installed_name, text)
    return re.sub(r"(--config=)configs/(\w+)\.py", r"\1\2", text)


def _installed_name(launcher: re.Match[str]) -> str:
    is_installed = (_COMMANDS / f"{launcher[1]}.py").exists()
    return f"vpt-{launcher[1].replace('_', '-')}" if is_installed else launcher[0]


def refuse_remote_flags() -> None:
    """Raises `RemotePathError` if a flag, other than the config and its fields, is a URL in place of a local path."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and isinstance(flag.value, str) and name.partition(".")[0] != "config":
            local_path(flag.value, f"--{name}")


def _output_folders() -> list[str]:
    """The output folders that are set by flags and config fields."""
    folders = [flags.FLAGS["out"].value] if "out" in flags.FLAGS else []
    if "config" in flags.FLAGS and (config := flags.FLAGS["config"].value) is not None:
        folders += [config.get("out"), config.get("workdir"), config.get("classifier")]
        if isinstance(data := config.get("data"), ConfigDict):
            folders.append(data.get("embeddings"))
        elif not config.get("out"):  # results are written next to the data
            folders += [data, config.get("videos")]
    return [os.path.expanduser(folder) for folder in folders if isinstance(folder, str) and folder]


def _read_config(flag: flags.FlagHolder) -> ConfigDict:
    with _one_line_errors():  # the flag reports a missing file when its value is first accessed
        config = flag.value.copy_and_resolve_references()
        refuse_renamed_fields(config)
        expand_config(config)
        _check_seeds(config)
        return config


def _check_seeds(config: ConfigDict, field: str = "config") -> None:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _check_seeds(value, f"{field}.{name}")
        elif name == "seed":
            check_seed(value, f"{field}.{name}")


def _parse_flags(arguments: list[str]) -> list[str]:
    with _one_line_errors():
        try:
            refuse_remote_settings(argument for argument in arguments if argument.startswith(("--config=", "-config=")))
        except RemotePathError as error:
            sys.exit(f"error: {error}")
        return flags.FLAGS([arguments[0], *find_configs(map(expand_argument, arguments[1:]))])


@contextmanager
def _one_line_errors(default: str = "") -> Iterator[None]:
    """Turns errors of flags and config files into one line, instead of a traceback or a list of all flags.

    `default` is the config where the command line names none.
    """
    try:
        yield
    except (SeedError, NoHomeError, RenamedFieldError, MissingFileError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {_one_line(error)}")
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(f"error: {_explain_field_error(error, sys.argv[1:], default)}")
    except flags.UnrecognizedFlagError as error:
        sys.exit(f"error: {error}; fields of the config are set by --config.FIELD=VALUE")
    except flags.Error as error:
        sys.exit(f"error: {str(error).splitlines()[-1]}")  # a config's own error comes after its traceback


def _explain_field_error(error: Exception, arguments: list[str], default: str) -> str:
    """Message for a field that a config does not have: the first such on the command line, else one in the file."""
    flag = re.compile(r"--?(?:no)?config\.([\w.]+)(?:=.*)?", re.DOTALL)
    fields = [found[1] for argument in arguments if (found := flag.fullmatch(argument))]
    names = _names_in_config(config_argument(arguments, default))
    if missing := [field for field in fields if names and field not in names]:
        return explain_missing_field(missing[0], names)
    hint = new_names_hint(str(error).replace("\\", ""))
    return f"the config has no field {_one_line(error)}" + (f" ({hint})" if hint else "")


def _names_in_config(config: str) -> list[str]:
    """Fields of the config of NAME[:VARIANT] or FILE[:VARIANT]; none if it cannot be loaded."""
    try:
        file, *variant = find_config(config).split(":", 1)
        return field_names(runpy.run_path(file)["get_config"](*variant)) if os.path.isfile(file) else []
    except Exception:
        return []


def _one_line(error: Exception) -> str:
    text = str(error)
    if text[:1] in "\"'" and text[:1] == text[-1:]:  # a KeyError quotes its text
        text = text[1:-1]
    return " ".join(text.replace("\\n", ". ").replace("\\'", "'").split())
