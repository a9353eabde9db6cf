"""Every command: its arguments and help, and which function does it. What is heavy is imported when it is needed."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

handoffs = typer.Typer(no_args_is_help=True, help="Look at hand-off folders.")
app.add_typer(handoffs, name="handoff")

Release = Annotated[str, typer.Argument(help="Release id, or the folder of its dossier.")]
Model = Annotated[str | None, typer.Option(help="Registered model; the settings' model when left out.")]


@app.command()
def train(
    spectra: Annotated[list[str], typer.Argument(help="Folders, files or s3:// prefixes of DESI or SDSS spectra.")],
    out: Annotated[Path, typer.Option(help="Folder to make: the hand-off.")],
    trainer: Annotated[str, typer.Option(help="Who hands over: 'Name <mail@lab>'.")],
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows; the recipe's when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    warm_start: Annotated[Path | None, typer.Option(help="Hand-off whose weights to start from.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    large: Annotated[
        bool, typer.Option("--large", help="Wider, longer, larger batches: for a GPU and ten thousand spectra or more.")
    ] = False,
) -> None:
    """Train the reference model on spectra and write a hand-off folder."""
    from firstlight.cli import handing_over

    wanted = {"epochs": epochs, "seed": seed, "device": device}
    recipe = {key: value for key, value in wanted.items() if value is not None}
    handing_over.train(settings.current(), spectra, out, trainer=trainer, recipe=recipe, large=large, warm_start=warm_start)


@handoffs.command()
def check(folder: Annotated[Path, typer.Argument(help="The hand-off folder.")]) -> None:
    """Say everything that is wrong with a hand-off folder (exit code 2), or that it can be released (0)."""
    from firstlight.cli import handing_over

    raise typer.Exit(handing_over.check(folder))


@app.command()
def release(
    handoff: Annotated[str, typer.Argument(help="Hand-off folder, or models:/NAME/VERSION of a registered one.")],
    change: Annotated[str | None, typer.Option(help="The change in change control it belongs to, such as CR-2026-014.")] = None,
) -> None:
    """Carry a hand-off through every gate to champion, or continue where an earlier run stopped.

    Exit code 0 promoted, 2 failed a gate, 3 cannot tell, 4 waiting for sign-off, 1 error.
    """
    from firstlight.cli import releasing

    raise typer.Exit(releasing.release(settings.current(), handoff, change=change))


@app.command("sign-off")
def sign_off(
    release_id: Release,
    key: Annotated[Path, typer.Option(help="Your SSH private key, such as ~/.ssh/id_ed25519.")],
    signer: Annotated[str, typer.Option("--as", help="Your e-mail address, as the approvers file has it.")],
    reason: Annotated[str, typer.Option(help="Why, in your words; it is part of what you sign.")],
    role: Annotated[str | None, typer.Option(help="Role you sign in; needed when you hold several.")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Sign against the release instead of for it.")] = False,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="What must be kept or done for your approval to stand; give it again for more. A date is its last day."),
    ] = None,
    document: Annotated[
        list[str] | None,
        typer.Option(help="A document the risk's band asks for, NAME=FILE such as 'board minutes=minutes.pdf'; you sign for it too."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before signing.")] = False,
) -> None:
    """Read what a release asks you to answer for, and sign it with your SSH key."""
    from firstlight.cli import signing

    signing.sign_off(
        settings.current(),
        release_id,
        key=key,
        signer=signer,
        reason=reason,
        role=role,
        reject=reject,
        ask=not yes,
        conditions=condition or (),
        documents=signing.named_files(document or ()),
    )


@app.command()
def status(
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what is live, what was live before, what is on its way, and whether the world agrees."""
    from firstlight.cli import standing

    standing.status(settings.current(), model, as_json=as_json)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the record.")],
    by: Annotated[str, typer.Option(help="Your e-mail address; kept in the record.")],
    to: Annotated[str | None, typer.Option(help="Version to go back to; the previous champion when left out.")] = None,
    model: Model = None,
) -> None:
    """Make the previous champion the champion again, at once."""
    from firstlight.cli import standing

    standing.rollback(settings.current(), model, reason=reason, by=by, to=to)


@app.command()
def drill(
    model: Model = None,
    version: Annotated[
        str | None, typer.Option(help="Version to rehearse; the previous champion and the present one when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Rehearse the way back: start the version afresh beside the live one, and see whether it could take the traffic, and how soon.

    Exit code 0 it could, 2 it could not, 3 cannot tell (nothing serves here), 1 error.
    """
    from firstlight.cli import drilling

    raise typer.Exit(drilling.drill(settings.current(), model, version, as_json=as_json))


@app.command()
def score(
    files: Annotated[list[str], typer.Argument(help="Folders, files or s3:// prefixes of spectra.")],
    out: Annotated[Path, typer.Option(help="Parquet table to write; refused rows go to <out>.refused.parquet.")],
    model: Model = None,
) -> None:
    """Score spectra with the champion. A run that was interrupted goes on where it stopped."""
    from firstlight.cli import scoring

    scoring.score(settings.current(), files, out, model=model)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 0 takes a free one.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Registered model, given again for more of them behind the same gateway.")] = None,
) -> None:
    """Keep the champion (and a canary, while there is one) of one or more models answering on this machine until Ctrl-C."""
    from firstlight.cli import serving

    raise typer.Exit(serving.serve(settings.current(), port=port, models=model or ()))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Release folder, a copy of one anywhere, or an exported ledger.")],
    approvers: Annotated[
        Path | None, typer.Option(help="The lab's own approvers file; the folder's copy is believed when left out.")
    ] = None,
    pipeline_keys: Annotated[Path | None, typer.Option(help="Public keys of the pipeline, one a line; the folder's when left out.")] = None,
    ledger_key: Annotated[Path | None, typer.Option(help="The ledger's key; its seals are not checked when left out.")] = None,
    model_folder: Annotated[Path | None, typer.Option(help="The model's folder, with its signature (<folder>.sig) beside it.")] = None,
    model_keys: Annotated[Path | None, typer.Option(help="Trusted model keys; the one in the evidence when left out.")] = None,
) -> None:
    """Recompute everything a release claims (digests, risk, register, papers, signatures, its part of the ledger), offline.

    Exit code 2 when something differs.
    """
    from firstlight.cli import verifying

    found = verifying.verify(
        settings.current(),
        folder,
        approvers=approvers,
        pipeline_keys=pipeline_keys,
        ledger_key=ledger_key,
        model_folder=model_folder,
        model_keys=model_keys,
    )
    raise typer.Exit(found)


@app.command()
def up() -> None:
    """Everything a person looks at, on loopback, until Ctrl-C: Prefect with a worker, MLflow, model servers and gateway."""
    from firstlight.cli import looking

    looking.up(settings.current())


@app.command()
def demo(
    spectra: Annotated[
        str | None, typer.Option(help="Folder of real spectra to use wherever they suffice; a synthetic sky when left out.")
    ] = None,
    bad: Annotated[bool, typer.Option("--bad", help="A subtly worse model instead: exit code 0 when its canary turned it back.")] = False,
) -> None:
    """Run the nightly chain from spectra to champion with two demo identities, and show what came out."""
    from firstlight.cli import demonstration

    raise typer.Exit(demonstration.demo_bad(settings.current()) if bad else demonstration.demo(settings.current(), spectra))
