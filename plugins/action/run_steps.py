"""Takes files of the controller along to where commands run."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The action of the task."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Run the module, after its uploads are in Ansible's own folder on the host."""
        super().run(tmp, task_vars)
        given = dict(self._task.args)
        uploads = given.get("uploads") or {}
        if uploads and not self._task.check_mode:
            self._make_tmp_path()
            given["uploads"] = {
                path: self._transfer_file(local, self.remote(number))
                for number, (path, local) in enumerate(uploads.items())
            }
        return self._execute_module(module_name="run_steps", module_args=given, task_vars=task_vars)

    def remote(self, number: int) -> str:
        """A path in Ansible's folder on the host."""
        shell = self._connection._shell
        return shell.join_path(shell.tmpdir, f"upload-{number}")
