"""What a person decided about the pairs of an audit: read back, checked, and counted."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from smoothscore.errors import UserError
from smoothscore.report.evidence import in_words, read_audit, write_groups, write_json, write_pairs
from smoothscore.report.findings import Audit, count, groups

FORMAT = "smoothscore decisions 1"
KINDS = ("accept", "reject", "skip")


def read_decisions(path: Path, audit: Audit) -> dict[int, str]:
    """Decisions by row of the sample: "accept" (a copy), "reject" or "skip".

    Raises:
        UserError: no decisions file, one of another audit, an unknown decision, or a sample that is no candidate.
    """
    if not path.is_file():
        raise UserError(f"The decisions file {path} does not exist: export it from review.html.")
    try:
        content = json.loads(path.read_bytes())
        kind, key, decisions = content["format"], content["audit"], dict(content["decisions"])
        decided = {int(row): str(decision) for row, decision in decisions.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no decisions file ({error}): export it from review.html again.") from error
    if kind != FORMAT:
        raise UserError(f'{path} has the format "{kind}", expected "{FORMAT}": export it from review.html again.')
    if key != audit.key:
        raise UserError(
            f"{path} belongs to another audit (key {str(key)[:12]}…, this one is {audit.key[:12]}…): give --out the "
            "folder whose review.html it was exported from."
        )
    candidates = {pair.sample for pair in audit.pairs}
    for row, decision in decided.items():
        if row not in candidates or decision not in KINDS:
            raise UserError(
                f'{path} says "{decision}" of sample {row}: decisions are {", ".join(KINDS)}, and of candidates only.'
            )
    return decided


def conclude(out: Path, decisions_file: Path) -> list[str]:
    """Write final.json, final.csv and final_training_images.csv from an audit and a person's decisions.

    Args:
        out: folder of the audit.
        decisions_file: what review.html exported.

    Returns:
        Sentences that say what came out.

    Raises:
        UserError: as `read_decisions`, or no audit in the folder.
    """
    audit = read_audit(out)
    decided = read_decisions(decisions_file, audit)
    accepted = [pair for pair in audit.pairs if decided.get(pair.sample) == "accept"]
    # The automatic copies that nobody decided on bound the count from above.
    undecided = [pair for pair in audit.flagged if decided.get(pair.sample, "skip") == "skip"]
    final = count(accepted, audit.num_samples, audit.options.without)
    at_most = count(accepted + undecided, audit.num_samples, audit.options.without)
    tally = _tally(audit, decided)
    write_pairs(out / "final.csv", accepted, decided)
    write_groups(out / "final_training_images.csv", groups(accepted))
    content = {"audit": audit.key, "decisions": tally, "count": asdict(final), "count_at_most": asdict(at_most)}
    write_json(out / "final.json", content)
    lines = [
        f"decided: {tally['accept']:,} copies, {tally['reject']:,} not copies, {tally['skip']:,} skipped, "
        f"{tally['undecided']:,} of {len(audit.flagged):,} automatic copies left",
        f"copies: {in_words(final, audit.num_samples)}",
    ]
    if undecided:
        lines.append(f"if all that is skipped or left is a copy: {in_words(at_most, audit.num_samples)}")
    return lines


def _tally(audit: Audit, decided: Mapping[int, str]) -> dict[str, int]:
    counted = Counter(decided.values())
    left = sum(pair.sample not in decided for pair in audit.flagged)
    return {kind: counted[kind] for kind in KINDS} | {"undecided": left}
