"""`stackctl completion`: print the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from services.cli import output

_VARIABLE = "_STACKCTL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    bash: eval "$(stackctl completion bash)" in ~/.bashrc
    zsh:  eval "$(stackctl completion zsh)" in ~/.zshrc, after compinit
    fish: stackctl completion fish > ~/.config/fish/completions/stackctl.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click has these three"
    output.write(found(context.find_root().command, {}, "stackctl", _VARIABLE).source())
