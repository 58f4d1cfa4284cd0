"""Jobs and builds on a stand-in for Kubernetes: adoption, faults of the cluster, interrupts, what nobody may see."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import (
    ClusterAccessError,
    JobNotStartedError,
    JobRefusedError,
    KubernetesUnavailableError,
    NodeLostError,
    StepTimeLimitError,
)
from orchestrator.events import Event, LogLine, StepStarted, Waiting
from orchestrator.executors.job_folder import JobFolder
from orchestrator.executors.kubernetes_manifest import POLICY
from tests.support.bench import Bench, in_background, wait_for
from tests.support.kubernetes import NAMESPACE, Kubernetes, cluster_text
from tests.support.manifests import VERSIONS, core_problems, objects
from tests.support.site import RECIPE, Site

SECRET = "hf_canary_0123456789"
HF = {"HF_TOKEN": {"name": "hf", "key": "token"}}


@pytest.fixture
def bench(kubernetes: Kubernetes, tmp_path: Path) -> Bench:
    return Bench(kubernetes.executor(tmp_path, settle_seconds=0.5, patience=0.5, seconds=0.5), tmp_path)


def folder_of(bench: Bench) -> JobFolder:
    return JobFolder(bench.job().output.parent)


def when_it_waits(bench: Bench, act: object) -> object:
    """Return an observer that does something when the command waits."""

    def see(event: Event) -> None:
        bench.see(event)
        if event == LogLine("waiting"):
            act()  # type: ignore[operator]

    return see


def test_a_job_whose_orchestrator_is_gone_is_adopted_and_runs_once(kubernetes: Kubernetes, bench: Bench) -> None:
    job = bench.job("wait")
    bench.executor.submit(job)  # type: ignore[attr-defined]
    wait_for((job.output / "starts").exists)
    (job.output / "go").touch()
    outcome = bench.run(job)
    assert (outcome.exit_status, outcome.adopted) == (0, True)
    assert bench.events[0] == StepStarted("quantize", "kubernetes", adopted=True)
    assert (job.output / "starts").read_text() == "start\n"
    wait_for(lambda: not kubernetes.queue())


def test_a_created_job_without_a_recorded_uid_is_found_by_its_name(kubernetes: Kubernetes, bench: Bench) -> None:
    job = bench.job("wait")
    submitted = bench.executor.submit(job)  # type: ignore[attr-defined]
    (submitted.folder.path / "job").unlink()
    assert bench.executor.submit(job).number == submitted.number  # type: ignore[attr-defined]
    assert len(kubernetes.all("jobs")) == 1


def test_an_image_that_cannot_be_pulled_is_named_after_a_while(kubernetes: Kubernetes, bench: Bench) -> None:
    kubernetes.images.clear()
    with pytest.raises(
        JobNotStartedError, match=r"cannot start: ImagePullBackOff: Back-off pulling image .*:1"
    ) as raised:
        bench.run(bench.job("end_with", "0"))
    assert "cluster.yaml" in raised.value.hint
    wait_for(lambda: not kubernetes.all("jobs"))


def test_a_secret_that_is_not_there_is_named(kubernetes: Kubernetes, tmp_path: Path) -> None:
    bench = Bench(kubernetes.executor(tmp_path, patience=0.5, secrets=HF), tmp_path)
    with pytest.raises(JobNotStartedError, match='CreateContainerConfigError: secret "hf" not found'):
        bench.run(replace(bench.job("end_with", "0"), secrets={"HF_TOKEN": SECRET}))


def test_a_job_that_no_node_can_take_waits_with_the_scheduler_s_words(kubernetes: Kubernetes, bench: Bench) -> None:
    kubernetes.claims.clear()
    seen: list[Event] = []

    def see(event: Event) -> None:
        seen.append(event)
        kubernetes.claims.add("models")

    job = bench.job("end_with", "0")
    assert bench.executor.run(job, see).exit_status == 0
    assert isinstance(seen[0], Waiting)
    assert 'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "models" not found.' in seen[0].reason


def test_pods_that_are_refused_are_told_and_a_quota_is_waited_for(kubernetes: Kubernetes, bench: Bench) -> None:
    kubernetes.pods_refused = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    with pytest.raises(JobNotStartedError, match="violates PodSecurity"):
        bench.run(bench.job("end_with", "0"))
    kubernetes.pods_refused = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'

    def see(event: Event) -> None:
        bench.see(event)
        if isinstance(event, Waiting) and "exceeded quota: gpus" in event.reason:
            kubernetes.pods_refused = ""

    assert bench.executor.run(bench.job("end_with", "0"), see).exit_status == 0


def test_a_job_above_the_quota_is_refused_with_the_server_s_words(kubernetes: Kubernetes, bench: Bench) -> None:
    kubernetes.quota = "exceeded quota: jobs, requested: count/jobs.batch=1, used: 5, limited: 5"
    with pytest.raises(JobRefusedError, match="exceeded quota: jobs"):
        bench.run(bench.job("end_with", "0"))


@pytest.mark.parametrize("verb", ["create jobs", "list jobs", "get networkpolicies"])
def test_an_account_without_a_right_is_told_which(kubernetes: Kubernetes, bench: Bench, verb: str) -> None:
    kubernetes.forbidden.add(verb)
    do, what = verb.split()

    def check_and_run() -> None:
        bench.executor.check(bench.job())
        bench.run(bench.job("end_with", "0"))

    with pytest.raises(ClusterAccessError, match=f'cannot {do} resource "{what}"'):
        check_and_run()


def test_a_login_that_expires_leaves_the_job_running(kubernetes: Kubernetes, bench: Bench) -> None:
    job = bench.job("wait")

    def expire() -> None:
        kubernetes.expired = True

    with pytest.raises(ClusterAccessError, match="may have expired"):
        bench.executor.run(job, when_it_waits(bench, expire))  # type: ignore[arg-type]
    kubernetes.expired = False
    assert kubernetes.queue()
    (job.output / "go").touch()
    assert bench.run(job).adopted


def test_a_server_that_is_away_for_a_while_is_waited_for(kubernetes: Kubernetes, bench: Bench) -> None:
    job = bench.job("wait")

    def leave() -> None:
        kubernetes.away = True

    with pytest.raises(KubernetesUnavailableError, match="Kubernetes has not answered for"):
        bench.executor.run(job, when_it_waits(bench, leave))  # type: ignore[arg-type]
    (job.output / "go").touch()
    wait_for(lambda: folder_of(bench).ending() is not None)
    assert bench.executor.run(job, bench.see).exit_status == 0, "the record is enough"
    with pytest.raises(KubernetesUnavailableError):
        bench.executor.check(job)


def test_a_machine_without_a_kubeconfig_is_told_so(kubernetes: Kubernetes, tmp_path: Path) -> None:
    executor = kubernetes.executor(tmp_path, context="elsewhere")
    with pytest.raises(KubernetesUnavailableError, match="elsewhere"):
        executor.check(Bench(executor, tmp_path).job())


def test_a_container_that_the_kernel_kills_is_told_from_others(kubernetes: Kubernetes, bench: Bench) -> None:
    outcome = bench.executor.run(bench.job("wait"), when_it_waits(bench, kubernetes.kill_for_memory))  # type: ignore[arg-type]
    assert (outcome.exit_status, outcome.out_of_memory, outcome.killed) == (137, True, False)


def test_a_pod_above_its_deadline_reached_its_time_limit(kubernetes: Kubernetes, bench: Bench) -> None:
    with pytest.raises(StepTimeLimitError):
        bench.executor.run(bench.job("wait"), when_it_waits(bench, kubernetes.pass_the_deadline))  # type: ignore[arg-type]


def test_an_evicted_pod_and_a_lost_node_are_told_with_their_words(kubernetes: Kubernetes, bench: Bench) -> None:
    def evict() -> None:
        kubernetes.evict("The node was low on resource: ephemeral-storage.")

    with pytest.raises(NodeLostError, match="Evicted: The node was low on resource: ephemeral-storage"):
        bench.executor.run(bench.job("wait"), when_it_waits(bench, evict))  # type: ignore[arg-type]
    with pytest.raises(NodeLostError, match="DeletionByTaintManager"):
        bench.executor.run(bench.job("wait", attempt="other"), when_it_waits(bench, kubernetes.lose_node))  # type: ignore[arg-type]


def test_a_job_that_somebody_deletes_was_killed(kubernetes: Kubernetes, bench: Bench) -> None:
    with in_background(bench, bench.job("wait")) as outcomes:
        wait_for(lambda: "waiting" in bench.lines)
        kubernetes.kubectl_delete("jobs", kubernetes.queue()[0])
    assert [(outcome.killed, outcome.out_of_memory) for outcome in outcomes] == [(True, False)]


def test_a_job_is_stopped_before_its_time_limit(kubernetes: Kubernetes, tmp_path: Path) -> None:
    bench = Bench(kubernetes.executor(tmp_path, minutes=1, margins={"stop_seconds": 59}), tmp_path)
    with pytest.raises(StepTimeLimitError):
        bench.run(bench.job("wait"))
    assert bench.lines == ["waiting", "asked to stop"]


def test_an_image_without_the_tool_is_told_from_a_step_that_fails(kubernetes: Kubernetes, tmp_path: Path) -> None:
    bench = Bench(kubernetes.executor(tmp_path, settle_seconds=0.2, python="false"), tmp_path)
    with pytest.raises(JobNotStartedError, match="ended before its command started"):
        bench.run(bench.job("end_with", "0"))


def test_kueue_starts_a_suspended_job(kubernetes: Kubernetes, tmp_path: Path) -> None:
    bench = Bench(kubernetes.executor(tmp_path, queue="team-a"), tmp_path)

    def see(event: Event) -> None:
        bench.see(event)
        if isinstance(event, Waiting):
            kubernetes.admit()

    assert bench.executor.run(bench.job("end_with", "0"), see).exit_status == 0
    reason = next(event.reason for event in bench.events if isinstance(event, Waiting))
    assert reason.endswith("(in the queue team-a)")


def test_a_policy_with_other_rules_is_refused(kubernetes: Kubernetes, bench: Bench) -> None:
    bench.run(bench.job("end_with", "0"))
    (policy,) = kubernetes.all("networkpolicies")
    kubernetes.objects["networkpolicies", POLICY] = {**policy, "spec": {**policy["spec"], "egress": [{}]}}
    with pytest.raises(JobRefusedError, match="does not isolate steps"):
        bench.run(bench.job("end_with", "0"))


def test_a_token_is_in_no_object_and_no_file(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.secrets["hf"] = {"token": SECRET}
    bench = Bench(kubernetes.executor(tmp_path, secrets=HF), tmp_path)
    job = replace(bench.job("tell_secret", "HF_TOKEN"), secrets={"HF_TOKEN": SECRET})
    assert bench.executor.run(job, bench.see).exit_status == 0
    assert bench.lines == ["the secret is [secret], and it has 20 letters"]
    seen = [json.dumps(kubernetes.all(kind)) for kind in ("jobs", "pods", "events")]
    seen += [file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert not [text for text in seen if SECRET in text]


@pytest.fixture
def site(kubernetes: Kubernetes, tmp_path: Path) -> Site:
    (tmp_path / "cluster.yaml").write_text(cluster_text(tmp_path, minutes=10))
    return Site("kubernetes", {"KUBECONFIG": kubernetes.environment["KUBECONFIG"]}, tmp_path)


def test_a_recipe_is_built_by_one_job_after_the_other(kubernetes: Kubernetes, site: Site) -> None:
    built = site.run(*site.build, "--json")
    assert built.returncode == 0, built.stderr
    assert [step["name"] for step in json.loads(built.stdout)["steps"]] == ["generate", "quantize", "verify"]
    steps = [job["metadata"]["labels"]["orchestrator.dev/step"] for job in kubernetes.all("jobs")]
    assert steps[:2] == ["generate", "quantize"], "the last one may be removed already"
    assert all("--offline" in pod["spec"]["containers"][0]["command"] for pod in kubernetes.all("pods"))
    assert list((site.folder / "store" / "jobs").iterdir()) == []
    assert (site.folder / "dist" / RECIPE / "compose.yaml").is_file()


def test_a_left_job_is_seen_attached_to_and_cancelled(kubernetes: Kubernetes, site: Site) -> None:
    kubernetes.claims.clear()
    with site.start(*site.build, "--on-interrupt", "leave") as build:
        wait_for(lambda: len(kubernetes.queue()) == 1)
        wait_for(lambda: "queued" in site.states().get("generate", ""))
        build.send_signal(signal.SIGINT)
        _, said = build.communicate(timeout=30)
    assert (build.returncode, "the jobs continue" in said) == (130, True), said
    states = site.states()
    assert states["generate"].startswith("queued (Unschedulable: ")
    assert "generate is queued (Unschedulable" in site.run("gc", "--delete").stdout
    assert (states["quantize"], states["verify"]) == ("not submitted", "not submitted")
    kubernetes.claims.add("models")
    attached = site.run("attach", RECIPE)
    assert attached.returncode == 0, attached.stderr
    assert "✓ generate: " in attached.stderr
    assert f"build {RECIPE}" in attached.stdout
    assert site.run("cancel", RECIPE).returncode == 0
    assert list((site.folder / "store" / "jobs").iterdir()) == []


def test_gc_removes_the_folder_of_jobs_that_are_gone(kubernetes: Kubernetes, site: Site) -> None:
    kubernetes.claims.clear()
    with site.start(*site.build) as build:
        wait_for(lambda: len(kubernetes.queue()) == 1)
        wait_for(lambda: "queued" in site.states().get("generate", ""))
        assert "a build follows them" in site.run("gc", "--delete").stdout
        build.kill()
        build.communicate()
    kubernetes.away = True
    assert "generate is unknown" in site.run("gc", "--delete").stdout
    kubernetes.away = False
    kubernetes.kubectl_delete("jobs", kubernetes.queue()[0])
    (found,) = json.loads(site.run("gc", "--delete", "--json").stdout)
    assert (found["kind"], found["removed"]) == ("jobs", True)
    assert list((site.folder / "store" / "jobs").iterdir()) == []


def test_without_a_terminal_an_interrupt_cancels_the_job(kubernetes: Kubernetes, site: Site) -> None:
    kubernetes.claims.clear()
    with site.start(*site.build) as build:
        wait_for(lambda: len(kubernetes.queue()) == 1)
        build.send_signal(signal.SIGTERM)
        _, said = build.communicate(timeout=30)
    assert build.returncode == 143, said
    wait_for(lambda: not kubernetes.all("jobs"))
    assert list((site.folder / "store" / "jobs").iterdir()) == []


def test_a_check_that_fails_in_a_job_ends_as_on_one_machine(site: Site) -> None:
    strict = ("--set", "checks.min_snr_db=90", "--set", "model.generate.num_hidden_layers=1")
    there = site.run(*site.build, *strict)
    assert there.returncode == 7
    assert "error[CHECK_FAILED]" in there.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_rendered_manifests_are_valid_and_in_order(site: Site, version: str) -> None:
    rendered = site.run(*site.build, "--render", str(site.folder / "jobs"))
    assert rendered.returncode == 0, rendered.stderr
    documents = [each for file in (site.folder / "jobs").rglob("*.yaml") for each in objects(file.read_text())]
    kubernetes = [each for each in documents if "apiVersion" in each]
    assert [problem for each in kubernetes for problem in core_problems(each, version)] == []
    waves = {
        each["metadata"]["labels"]["orchestrator.dev/step"]: each["metadata"]["annotations"][
            "argocd.argoproj.io/sync-wave"
        ]
        for each in kubernetes
        if each["kind"] == "Job"
    }
    assert waves == {"generate": "1", "quantize": "2", "verify": "3"}
    assert {each["metadata"]["namespace"] for each in kubernetes} == {NAMESPACE}


def test_a_store_that_pods_do_not_see_is_refused(site: Site) -> None:
    (site.folder / "cluster.yaml").write_text(cluster_text(site.folder / "elsewhere"))
    refused = site.run(*site.build)
    assert refused.returncode == 3
    assert "is not on the volume that pods see at" in refused.stderr
