"""skopeo and buildah, kept away from the settings, logins and storage of whoever runs the tests."""

import json
from pathlib import Path

from .command import SYSTEM_PATH, Outcome, find_program, run


def _isolated(folder: Path) -> dict[str, str]:
    """An environment in which skopeo and buildah read only what lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "REGISTRY_AUTH_FILE": ("auth.json", "{}"),
        "CONTAINERS_CONF": ("containers.conf", ""),
        # No mirrors, no search list, no insecure registries.
        "CONTAINERS_REGISTRIES_CONF": ("registries.conf", ""),
    }
    for name, content in files.values():
        (folder / name).write_text(content)
    paths = {variable: str(folder / name) for variable, (name, _) in files.items()}
    return {"PATH": SYSTEM_PATH, "HOME": str(folder), "TMPDIR": str(folder), **paths}


class Skopeo:
    """`skopeo`, with state in `folder` only.

    Registries are taken to speak plain HTTP, unless there are `certificates`: a folder with a
    `ca.crt` to trust and, to authenticate by, a `client.cert` and its `client.key`.
    """

    certificates: Path | None = None

    def __init__(self, folder: Path) -> None:
        self._env = _isolated(folder)

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return None if find_program("skopeo") else "no skopeo: run .ci/clients"

    def copy(self, source: str, destination: str) -> Outcome:
        """`skopeo copy`, of every image of an index if the source is one."""
        options = (*self._tls("src-"), *self._tls("dest-"))
        return self._run("copy", "--all", *options, source, destination)

    def login(self, registry: str, username: str, password: str) -> Outcome:
        """`skopeo login` at HOST:PORT, which the registry is asked to confirm."""
        words = ("--username", username, "--password-stdin", registry)
        return self._run("login", *self._tls(), *words, stdin=password)

    def sync_to_folder(self, repository: str, folder: Path) -> Outcome:
        """`skopeo sync` of every tag of HOST:PORT/REPO; each becomes a folder `NAME:TAG`."""
        options = ("--all", "--src=docker", "--dest=dir", *self._tls("src-"))
        return self._run("sync", *options, repository, str(folder))

    def tags(self, repository: str) -> frozenset[str]:
        """The tags of docker://HOST:PORT/REPO."""
        answer = self._run("list-tags", *self._tls(), repository).log
        return frozenset(json.loads(answer)["Tags"])

    def _tls(self, side: str = "") -> tuple[str, ...]:
        return _tls(self.certificates, side)

    def _run(self, *arguments: str, stdin: str = "") -> Outcome:
        # No signature is to be checked, whatever the system's policy.json asks for.
        return run(["skopeo", "--insecure-policy", *arguments], env=self._env, stdin=stdin)


def _tls(certificates: Path | None, side: str = "") -> tuple[str, ...]:
    """The options for plain HTTP, or for a folder of certificates."""
    if certificates is None:
        return (f"--{side}tls-verify=false",)
    return (f"--{side}tls-verify=true", f"--{side}cert-dir={certificates}")


class Buildah:
    """`buildah`, with images and containers in `folder`, stored as plain files (vfs).

    `certificates` as skopeo has them.
    """

    certificates: Path | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = _isolated(folder) | {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
        # The driver that needs nothing of the kernel or the file system.
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return None if find_program("buildah") else "no buildah: run .ci/clients"

    def make_image(self, name: str, *, files: Path, image_format: str = "oci") -> None:
        """Makes a local image of one layer with the content of the folder `files`."""
        container = self._run("from", "scratch").log.strip()
        self._run("copy", container, str(files), "/")
        # The policy is named again: committing copies an image.
        policy = f"--signature-policy={self._policy}"
        self._run("commit", policy, f"--format={image_format}", "--quiet", container, name)
        self._run("rm", container)

    def login(self, registry: str, username: str, password: str) -> Outcome:
        """`buildah login` at HOST:PORT, which the registry is asked to confirm."""
        words = ("--username", username, "--password-stdin", registry)
        return self._run("login", *_tls(self.certificates), *words, stdin=password)

    def push(self, name: str, destination: str) -> str:
        """Pushes a local image to docker://HOST:PORT/REPO:TAG; returns its manifest's digest."""
        digest = self._folder / "pushed-digest"
        self._run(
            "push",
            *_tls(self.certificates),
            f"--signature-policy={self._policy}",
            f"--digestfile={digest}",
            name,
            destination,
        )
        return digest.read_text().strip()

    def pull(self, source: str) -> str:
        """Pulls docker://HOST:PORT/REPO:TAG; returns the digest of the manifest received."""
        policy = f"--signature-policy={self._policy}"
        image = self._run("pull", *_tls(self.certificates), policy, "--quiet", source).log.split()[
            -1
        ]
        return str(json.loads(self._run("inspect", "--type=image", image).log)["FromImageDigest"])

    def remove_all_images(self) -> None:
        """Forgets every local image."""
        self._run("rmi", "--all", "--force")

    def files_of(self, image: str) -> Path:
        """Mounts an image (a plain folder, in vfs) and returns where its files are."""
        policy = f"--signature-policy={self._policy}"
        container = self._run("from", "--pull-never", policy, image).log.split()[-1]
        return Path(self._run("mount", container).log.strip())

    def _run(self, *arguments: str, stdin: str = "") -> Outcome:
        return run(["buildah", *arguments], env=self._env, stdin=stdin)
