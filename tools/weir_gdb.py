# SPDX-License-Identifier: MIT
"""
weir_gdb.py: tasks of a weir program in gdb, alive or as a core file.

    (gdb) source /usr/local/share/weir/weir_gdb.py
    (gdb) weir tasks        every task: id, name, state, what it waits for, where it was spawned
    (gdb) weir bt ID        the frames of one task
    (gdb) weir bt all       of every task
    (gdb) weir heap         pools and memory of each heap

It reads weir's own structures, so the library must have its debug information. A parked task's frames
need no registers to be changed: an unwinder of ours says that the caller of the innermost frame is the
task, which works on a core file, too.
"""
import re

import gdb
from gdb.unwinder import Unwinder, register_unwinder

STATES = ["not started", "ready", "running", "parked", "ended"]


def value(text):
    return gdb.parse_and_eval(text)


def string(pointer, otherwise):
    return pointer.string(errors="replace") if int(pointer) else otherwise


def word(address):
    kind = gdb.lookup_type("unsigned long").pointer()
    return gdb.Value(address).cast(kind).dereference()


# ---- Tasks ------------------------------------------------------------------------------------------


def runtimes():
    runtime = value("weir__runtimes")
    while int(runtime):
        yield runtime
        runtime = runtime["next_running"]


def tasks(runtime):
    """Every task with its depth, parents first."""
    todo = [(runtime["root"].address, 0)]
    while todo:
        task, depth = todo.pop()
        yield task, depth
        if int(task["state"]) == 0:
            continue
        below = []
        scope = task["scope"]
        while int(scope):
            child = scope["children"]
            while int(child):
                below.append((child, depth + 1))
                child = child["sibling_next"]
            scope = scope["parent"]
        todo.extend(reversed(below))


def id_of(task):
    home = task["worker"]
    if int(task["owner"]):
        home = task["owner"]["task"]["worker"]
    return (int(home["index"]) + 1) << 48 | int(task["id_high"]) << 32 | int(task["id_low"])


def fn_of(task):
    """What weir__task_fn() says: the program's function, and not what the library runs around it."""
    fn = int(task["fn"])
    if fn == int(value("(long)&weir__census_main")):
        fn = int(task["measured_fn"])
    join_main = int(value("(long)&weir__join_main"))
    if fn == join_main:
        join = gdb.lookup_type("struct join", gdb.block_for_pc(join_main))
        fn = int(task["arg"].cast(join.pointer())["fn"])
    return fn


def name_of(task):
    if int(task["name"]):
        return string(task["name"], "")
    block = gdb.block_for_pc(fn_of(task))
    return str(block.function) if block and block.function else "task"


class WaitKinds:
    """Labels by abort function, from the table the linker has gathered."""

    def __init__(self):
        kind = gdb.lookup_type("struct weir__wait_kind")
        first, end = (int(value("(long)&%s_weir_wait_kinds" % s)) for s in ("__start", "__stop"))
        self.labels = {}
        for at in range(first, end, kind.sizeof):
            entry = gdb.Value(at).cast(kind.pointer()).dereference()
            self.labels[int(entry["abort"])] = string(entry["label"], None)

    def of(self, task):
        abort = int(task["abort"]) or int(task["aborted"])
        if abort:
            label = self.labels.get(abort, "a wait")
            return label or self.about(task)
        return string(task["wait"].cast(gdb.lookup_type("char").pointer()), "a wait")

    def about(self, task):
        """What label_of() in runtime/wait.c says, whose waits share one abort function."""
        waiter = task["wait"].cast(gdb.lookup_type("struct weir__waiter").pointer())
        return string(waiter["about"]["label"], "a wait")


def describe(task, depth, kinds):
    state = int(task["state"])
    worker = "worker %d" % int(task["worker"]["index"]) if int(task["worker"]) else "any worker"
    text = '%s%d "%s", %s, %s' % ("  " * depth, id_of(task), name_of(task), worker, STATES[state])
    if state == 3:
        text += " in " + kinds.of(task)
    if int(task["cancelled"]):
        text += ", cancelled"
    return text + "; spawned at " + string(task["site"], "unknown")


# ---- Frames of a task -------------------------------------------------------------------------------


class Suspended(Unwinder):
    """While `task` is set: its registers are those of the innermost frame's caller."""

    # as pushed by runtime/switch_*.S: register, offset from the saved stack pointer; then what sp is
    LAYOUTS = {
        "x86-64": (
            "rip",
            "rsp",
            [("r15", 0), ("r14", 8), ("r13", 16), ("r12", 24), ("rbx", 32), ("rbp", 40), ("rip", 48)],
            56,
        ),
        "aarch64": (
            "pc",
            "sp",
            [("x29", 0), ("x30", 8), ("pc", 8)] + [("x%d" % (19 + i), 16 + 8 * i) for i in range(10)],
            160,
        ),
    }

    def __init__(self):
        super().__init__("weir suspended task")
        self.task = None
        self.innermost = None

    def __call__(self, pending):
        if self.task is None:
            return None
        arch = pending.architecture().name()
        layout = next((l for name, l in self.LAYOUTS.items() if name in arch), None)
        if layout is None:
            return None
        pc, sp, registers, size = layout
        at = FrameId(pending.read_register(sp), pending.read_register(pc))
        if (int(at.pc), int(at.sp)) != self.innermost:
            return None
        saved = int(self.task["sp"])
        info = pending.create_unwind_info(at)
        for register, offset in registers:
            info.add_saved_register(register, word(saved + offset))
        unsigned = gdb.lookup_type("unsigned long")
        info.add_saved_register(sp, gdb.Value(saved + size).cast(unsigned))
        return info


class FrameId:
    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


suspended = Suspended()
register_unwinder(None, suspended, replace=True)


def suspended_frames(task):
    frame = gdb.newest_frame()
    arch = frame.architecture().name()
    pc, sp = ("rip", "rsp") if "x86-64" in arch else ("pc", "sp")
    suspended.innermost = int(frame.read_register(pc)), int(frame.read_register(sp))
    suspended.task = task
    gdb.invalidate_cached_frames()
    try:
        return gdb.execute("bt", to_string=True)
    finally:
        suspended.task = None
        gdb.invalidate_cached_frames()


def running_frames(task):
    tid = int(task["worker"]["tid"])
    before = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        if thread.ptid[1] == tid:
            thread.switch()
            try:
                return gdb.execute("bt", to_string=True)
            finally:
                before.switch()
    return "#0 its thread is not here\n"


def frames_of(task):
    if int(task["state"]) == 2:
        return running_frames(task)
    if not int(task["sp"]) or not int(task["stack"]):
        return "it has no stack\n"
    if bool(task["worker"]["use_ucontext"]):
        return "WEIR_SWITCH=ucontext: its registers are not where this script looks\n"
    lines = suspended_frames(task).splitlines()
    shown = []
    for line in lines:
        number = re.match(r"#(\d+)(\s+)(.*)", line)
        if not number:
            if shown:
                shown.append(line)
        elif int(number[1]) > 0:
            shown.append("#%-3d%s" % (int(number[1]) - 1, number[3]))
    return "\n".join(shown) + "\n"


# ---- Commands ---------------------------------------------------------------------------------------


class Weir(gdb.Command):
    """Tasks and memory of a weir program: weir tasks, weir bt ID, weir bt all, weir heap."""

    def __init__(self):
        super().__init__("weir", gdb.COMMAND_USER, prefix=True)


class Tasks(gdb.Command):
    """weir tasks: every task, as a tree."""

    def __init__(self):
        super().__init__("weir tasks", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        kinds = WaitKinds()
        count = 0
        for runtime in runtimes():
            for task, depth in tasks(runtime):
                print(describe(task, depth, kinds))
                count += 1
        print("%d tasks" % count)


class Backtrace(gdb.Command):
    """weir bt ID, weir bt all: the frames of a task, or of each."""

    def __init__(self):
        super().__init__("weir bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        argument = argument.strip()
        if argument != "all" and not re.fullmatch(r"\d+", argument):
            raise gdb.GdbError("weir bt: want a task's id, as in `weir tasks`, or all")
        kinds = WaitKinds()
        found = False
        for runtime in runtimes():
            for task, depth in tasks(runtime):
                if argument == "all" or id_of(task) == int(argument):
                    found = True
                    print(describe(task, 0, kinds))
                    print(frames_of(task))
        if not found and argument != "all":
            raise gdb.GdbError("weir bt: no task has the id " + argument)


class Heap(gdb.Command):
    """weir heap: what the pools of each heap hold, and what the heap has of the system's memory."""

    def __init__(self):
        super().__init__("weir heap", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        pools = value("weir__pools")
        for i in range(int(value("weir__home_count"))):
            self.show(value("weir__homes[%d]" % i), pools)

    def show(self, home, pools):
        print("heap %d of worker %d" % (int(home["id"]), int(home["worker"])))
        print("  %-24s %10s %10s %10s %12s" % ("pool", "bytes", "in use", "cached", "allocations"))
        used = 0
        for i in range(1, int(home["bins_end"])):
            cache, bin = home["heap"]["cache"][i], home["bins"][i]
            if not int(cache["allocs"]):
                continue
            cached = min((int(cache["head"]) - int(cache["slots"])) // 8, int(cache["cap"]))
            in_use = max(0, int(bin["out"]) - cached - int(bin["internal"]))
            size = int(pools[i]["object_bytes"])
            used += in_use * size
            print("  %-24s %10d %10d %10d %12d" % (string(pools[i]["name"], "size class"), size, in_use,
                                                    cached, int(cache["allocs"])))
        units = int(home["span_units"]), int(home["dirty_units"])
        print("  in use %d KiB, in spans %d KiB, kept free %d KiB" % (used // 1024, units[0] * 64,
                                                                      units[1] * 64))


for command in Weir, Tasks, Backtrace, Heap:
    command()
