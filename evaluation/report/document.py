"""The HTML report of an evaluation: what stands where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from oodguard.core.classifier import ClassifierRecord
from oodguard.core.curve import Scores
from oodguard.evaluation.answered import Answered
from oodguard.evaluation.confusion import confusion_counts
from oodguard.evaluation.evaluation import Evaluation, mean_table
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.evaluation.extremes import ID
from oodguard.evaluation.report import answers, at_threshold, tables
from oodguard.evaluation.report.acceptance import acceptance_plot
from oodguard.evaluation.report.densities import density_plot
from oodguard.evaluation.report.detection_curves import detection_curves
from oodguard.evaluation.report.forest import ablation_plot
from oodguard.evaluation.report.galleries import gallery
from oodguard.evaluation.report.heatmap import MOST_CLASSES, confusion_plot
from oodguard.evaluation.report.members import members_plot
from oodguard.evaluation.report.reliability import reliability_plot
from oodguard.evaluation.report.shifts import scores_over, shifts_sentence, shifts_table
from oodguard.evaluation.report.summary import facts, findings
from oodguard.evaluation.shifted import ShiftTable
from oodguard.pages.page import Block, CodeBlock, Facts, Findings, Illustration, Page, Prose, Section, Table, render
from oodguard.pages.text import bracketed, count, interval, percent


def to_html(found: Evaluation, evidence: Evidence) -> str:
    """The report as one self-contained file; the same bytes for the same evaluation.

    Every number in it is one of `found`; `evidence` gives the curves and the images.
    """
    record = evidence.record
    return render(
        Page(
            title=found.title,
            subtitle=f"{count(len(record.classes), 'class')}, {record.backbone.name}, "
            f"seed {found.seed}, evaluated {found.created}. ID: images of these classes; OOD: all others.",
            first=(
                Facts(facts(found)),
                *((at_threshold.overview(found),) if found.ood else ()),
                Findings(findings(found)),
            ),
            sections=tuple(_sections(found, evidence)),
            footer=f"oodguard {found.versions.get('oodguard', '')}. This file is complete: it loads nothing.",
        )
    )


def _sections(found: Evaluation, evidence: Evidence) -> Iterator[Section]:
    if found.ood:
        yield Section("At the threshold", tuple(_at_threshold(found)))
    yield Section("What the fused score is made of", tuple(_fusion(found)))
    if found.repeats is not None:
        yield Section("Other trainings", (at_threshold.repeats_table(found.repeats),))
    yield Section("Scores and thresholds", tuple(_scores(found, evidence)))
    if found.ood:
        yield Section("Detection by OOD set", tuple(_detection(found, evidence)))
    yield Section("Acceptance against the threshold", tuple(_acceptance(found, evidence)))
    if found.ood:
        yield Section("Ablation of the fused score", tuple(_ablation(found)))
    if found.answered is not None:
        yield Section("Answers, label sets, and acceptance by class", tuple(_answers(found.answered)))
    if found.leave_out:
        yield Section("Classes left out of training", tuple(_leave_out(found)))
    if found.shifts is not None:
        yield Section("Mild shifts", tuple(_shifts(found.shifts)))
    yield Section("Most and least divergent images", tuple(_images(found, evidence)))
    yield Section("Predictions: confusion", tuple(_confusion(found, evidence)))
    yield Section("Predictions: calibration of probabilities", tuple(_calibration(found)))
    yield Section("Ensemble diagnostics", tuple(_ensemble(found, evidence)))
    yield Section("How this was made", tuple(_provenance(found, evidence)))


def _by_set(evidence: Evidence, score: str) -> Mapping[str, Scores]:
    return {ID: evidence.test.values[score], **{name: m.values[score] for name, m in evidence.ood.items()}}


def _at_threshold(found: Evaluation) -> Iterator[Block]:
    yield Prose(found.comparison.sentence)
    yield at_threshold.decided_table(found)
    for name, table in found.ood.items():
        yield at_threshold.threshold_table(name, table)


def _fusion(found: Evaluation) -> Iterator[Block]:
    yield Prose(at_threshold.fusion_sentence(found.fusion, wrapped=found.wrapped))
    yield at_threshold.check_table(found.fusion)
    if found.fusion.check is not None:
        yield at_threshold.shares_table(found.fusion)


def _scores(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    names = [FUSED, *evidence.record.heads.scores]
    sets = " and ".join(found.ood) or "no OOD set"
    yield Illustration(
        plot=density_plot(
            {name: _by_set(evidence, name) for name in names},
            found.thresholds,
            name="densities",
            alt=f"Histograms of {len(names)} scores, each for ID test and {sets}, with the calibrated threshold. The "
            "tables below give the thresholds and the shares on either side.",
        ),
        caption="Where the values of every score lie, as shares of each set in 40 bins. Higher is more OOD; what lies "
        "right of the dashed line is flagged. Values beyond an axis are counted in its outermost bin; where a far set "
        "would press the rest together, the axis is logarithmic beyond the ID range.",
    )
    yield tables.thresholds_table(found)


def _detection(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    for index, (name, table) in enumerate(found.ood.items()):
        fused = table.scores[FUSED]
        yield Illustration(
            plot=detection_curves(
                evidence.test.values,
                evidence.ood[name].values,
                {score: d.auroc for score, d in table.scores.items()},
                title=name,
                name=f"roc-{index}",
                alt=f"ROC and detection-error curves of all scores on {name}. The fused score has an AUROC of "
                f"{percent(fused.auroc)} and accepts {percent(fused.ood_accepted_at_95_id)} of OOD images when 95 % of "
                "ID images are accepted.",
            ),
            caption=f"{name}. Left: the share of OOD images flagged against the share of ID test images flagged; the "
            "higher the better. Right: the two kinds of error on scales that make normal scores straight lines; the "
            "lower the better.",
        )
        yield tables.detection_table(name, table)


def _acceptance(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    accepted, sets = found.acceptance[FUSED], ", ".join(found.ood) or "none"
    yield Illustration(
        plot=acceptance_plot(
            evidence,
            found,
            name="acceptance",
            alt=f"Three curves: the share accepted against the threshold for ID test and OOD sets ({sets}); realised "
            f"against target acceptance; accuracy of the accepted. At the threshold {percent(accepted.share)} of ID "
            "test is accepted.",
        ),
        caption=f"The fused score (ID test: n = {accepted.of:,}). Left: what is accepted as the threshold moves. "
        "Middle: the acceptance asked for and the one found on ID test; the band is where 95 % of calibrations of this "
        "size lie. Right: the fewer are accepted, the more predictions are right; the band is a 95 % interval. Dashed: "
        f"the target of {100 * found.accept:g} % (left and right: the threshold it sets).",
    )
    yield tables.operating_table(found)


def _answers(found: Answered) -> Iterator[Block]:
    yield answers.decisions_table(found)
    yield Illustration(
        plot=answers.risk_plot(
            found,
            name="risk",
            alt="Errors among answers against the share of ID test answered, by three scores; the table below gives "
            "their areas and what can be answered at the served error.",
        ),
        caption="Answer the images with the lowest values first: how many predictions are wrong among them. Dashed: "
        f"the error asked for, {100 * found.max_error:g} %; the point is the served decision.",
    )
    yield answers.risk_table(found)
    yield answers.label_sets_table(found)
    yield answers.by_class_table(found)


def _ablation(found: Evaluation) -> Iterator[Block]:
    yield Illustration(
        plot=ablation_plot(
            found.ood,
            name="ablation",
            alt="For every variant of the fused score, the change of AUROC against the whole one with its interval. "
            "The tables below hold the same numbers.",
        ),
        caption="Change of AUROC when a part of the fused score is left out; left of the line, the part is worth "
        "having. Lines are 95 % intervals for the same images scored twice; filled points are those whose interval "
        "excludes 0.",
    )
    for name, table in found.ood.items():
        yield tables.ablation_table(name, table)


def _leave_out(found: Evaluation) -> Iterator[Block]:
    means = mean_table(found.leave_out)
    yield Prose(
        "Each draw trained a guard without some random classes and takes their test images as OOD: the hardest "
        "strangers, because they come from the same place as the known images."
    )
    yield at_threshold.left_out_table(found)
    yield Table(
        caption="AUROC by draw, in percent",
        head=("score", *(f"{k} ({count(t.images, 'image')})" for k, t in found.leave_out.items()), "mean"),
        rows=tuple(
            (name, *(bracketed(t.scores[name].auroc, t.scores[name].auroc_interval)
                     for t in found.leave_out.values()), f"{100 * mean:.1f}")
            for name, mean in means.items()
        ),
        strong=frozenset({list(means).index(FUSED)}),
        note=f"{tables.INTERVALS} (DeLong).",
    )  # fmt: skip
    for name, table in found.leave_out.items():
        yield at_threshold.threshold_table(name, table)
        yield tables.detection_table(name, table)


def _shifts(found: ShiftTable) -> Iterator[Block]:
    yield Prose(shifts_sentence(found))
    yield shifts_table(found)
    yield scores_over(found)


def _images(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    yield Prose(
        "What the guard finds strange among known images, and familiar among strangers. The title is the image's true "
        "class, or for an OOD image the folder it lay in."
    )
    for end in found.extremes:
        yield gallery(end, evidence)


def _confusion(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    classes = evidence.record.classes
    counts = confusion_counts(evidence.targets, evidence.test.answers.probabilities.argmax(1), len(classes))
    first = found.confusions[0] if found.confusions else None
    some = f" Only the {MOST_CLASSES} classes with the most errors are drawn." if len(classes) > MOST_CLASSES else ""
    yield Illustration(
        plot=confusion_plot(
            counts,
            classes,
            name="confusion",
            alt=f"Confusion matrix, {percent(found.accuracy.share)} on the diagonal. "
            + (
                f"The most frequent confusion is {first.true} predicted as {first.predicted}."
                if first
                else "No errors."
            ),
        ),
        caption="Of each true class (row), the percentage predicted as each class (column), on ID test; in brackets "
        "the images; shaded cells without a number are below 0.5 %. Classes confused with each other stand side by "
        f"side.{some}",
    )
    if found.confusions:
        yield tables.confusions_table(found)
    yield tables.recalls_table(found)


def _calibration(found: Evaluation) -> Iterator[Block]:
    if found.answered is not None:
        yield answers.chances_table(found.answered)
    yield Illustration(
        plot=reliability_plot(
            found.reliability,
            name="reliability",
            alt=f"Reliability diagram: mean confidence {percent(found.confidence)}, accuracy "
            f"{percent(found.accuracy.share)}, expected calibration error {percent(found.calibration_error)}.",
        ),
        caption=f"Left: how often the prediction is right, by its probability, on ID test; above the diagonal "
        f"probabilities are too low, below it too high. Expected calibration error "
        f"{percent(found.calibration_error)}. Right: how the probabilities are spread.",
    )


def _ensemble(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    d = found.diversity
    yield Illustration(
        plot=members_plot(
            found,
            _by_set(evidence, "pds"),
            name="members",
            alt=f"Accuracy of {len(d.members)} members and of the ensemble, pairwise disagreement, and histograms of "
            "PDS by set.",
        ),
        caption="Left: every member's accuracy against the ensemble's (line and band). Middle: how often two members "
        "predict an ID test image differently. Right: the Predictive Diversity Score of every set, with its threshold.",
    )
    yield Prose(
        f"All {len(d.members)} members are right on {percent(d.all_right.share)} of ID test images "
        f"({interval(d.all_right.low, d.all_right.high)}), at least one on {percent(d.any_right.share)} "
        f"({interval(d.any_right.low, d.any_right.high)}). A member's mean cross-entropy is {d.member_loss:.4f} nats, "
        f"the ensemble's {d.ensemble_loss:.4f}: averaging is worth {d.ambiguity:.4f} nats (the ambiguity, mean member "
        "loss less ensemble loss; 0 where all members say the same)."
    )
    yield tables.diversity_table(found)


def _wrapped(classifier: ClassifierRecord) -> str:
    maker = f"written by {classifier.producer}, " if classifier.producer else ""
    labels = (
        " Its own answers were taken for labels: what it gets wrong counts as right."
        if classifier.labels == "model"
        else ""
    )
    seen = (
        " It was trained on photos like those that calibrated: thresholds come from changed views of them, and new "
        "photos may pass more or less often than promised."
        if classifier.seen
        else ""
    )
    return (
        f"The guard was put around {classifier.file} (SHA-256 {classifier.sha256[:16]}; {maker}opset "
        f"{classifier.opset}): labels and probabilities are its own. Its feature is {classifier.feature}, of "
        f"{classifier.width:,} numbers, and its logits are {classifier.logits}.{labels}{seen}"
    )


def _provenance(found: Evaluation, evidence: Evidence) -> Iterator[Block]:
    record = evidence.record
    yield Prose(f"Evaluated {found.created}, with this command:")
    yield CodeBlock(found.command or "oodguard.evaluation.evaluate.examine (no command line)")
    yield Prose(
        f"The run was trained {record.created} on {count(record.splits.train, 'image')} and calibrated on "
        f"{count(record.splits.calibration, 'image')} (near-duplicates kept on one side; "
        f"{record.splits.groups:,} groups, the largest of {record.splits.largest_group:,}); "
        f"evaluated on {count(len(evidence.test), 'test image')}. "
        f"Backbone {record.backbone.name} ({record.backbone.source}). Photos {record.data_fingerprint[:16]}, weights "
        f"{record.weights_sha256[:16]} (SHA-256)."
    )
    if record.classifier is not None:
        yield Prose(_wrapped(record.classifier))
    if found.leak:
        yield Table(
            caption="What keeping near-duplicates together changes: test acceptance of a frozen-feature kNN threshold "
            "set for 95 %",
            head=("calibration split", *(f"k = {k}" for k in next(iter(found.leak.values())))),
            rows=tuple((kind, *map(percent, found_by_k.values())) for kind, found_by_k in found.leak.items()),
        )
    yield tables.versions_table(found)
    yield Table(
        caption="Options the run was trained with",
        head=("option", "value"),
        rows=tuple((name, "default" if value is None else str(value)) for name, value in record.options.items()),
        words=frozenset({1}),
    )
