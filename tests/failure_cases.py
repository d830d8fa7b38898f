"""What went wrong for users of imaging tools, and the tests that see that it does not here.

`tests/test_failure_cases.py` checks that each test that is named is there. A case without a test
says why it has none.
"""

from dataclasses import dataclass

_CHOOSE = "unit/disk/test_choose.py"
_PLACING = "unit/disk/test_placing.py"
_MISTAKES = "unit/disk/test_mistakes.py"
_RELEASE = "unit/disk/test_release.py"
_LAYOUT = "integration/test_disk_layout.py"
_FAULTS = "integration/test_disk_faults.py"
_LEFT = "integration/test_disk_leftovers.py"
_APPLY = "integration/test_disk_apply.py"
_CLONE = "integration/test_clone.py"
_STACK = "guest/inside/test_disk_stack.py"
_MACHINES = "golden/test_disk_machines.py"


@dataclass(frozen=True, slots=True)
class Case:
    """One way in which it went wrong."""

    words: str
    tests: tuple[str, ...]  # file under tests/, "::", name of the function
    untested: str = ""  # why it, or a part of it, has no test


WRONG_DISK = (
    Case(
        "sda and sdb change places between two boots",
        (
            f"{_CHOOSE}::test_names_and_places_that_change_at_a_boot_change_nothing",
            f"{_CLONE}::test_changed_between_plan_and_apply",
        ),
    ),
    Case(
        "the serial in the configuration is not there any more, and another disk was taken",
        (
            f"{_CLONE}::test_no_such_serial",
            f"{_LAYOUT}::test_with_an_ambiguous_match_no_write_reaches_any_disk",
        ),
    ),
    Case(
        "a USB stick or audio box comes first",
        (f"{_CHOOSE}::test_names_and_places_that_change_at_a_boot_change_nothing",),
    ),
    Case(
        "all disks are cleaned in spite of hints; a read-only virtual medium stops the rest",
        (f"{_CHOOSE}::test_what_nobody_named_is_no_obstacle_and_not_in_the_plan",),
    ),
    Case(
        "the data disk has the size and model of the system disk",
        (
            f"{_CHOOSE}::test_two_disks_that_look_alike_are_no_choice",
            f"{_CHOOSE}::test_never_touch_wins_over_a_name_on_the_command_line",
            f"{_LAYOUT}::test_with_an_ambiguous_match_no_write_reaches_any_disk",
        ),
    ),
    Case(
        "a second run makes a second scratch partition, or wipes the first",
        (
            f"{_LAYOUT}::test_a_second_run_finds_everything_done",
            f"{_LAYOUT}::test_scratch_data_survives_a_new_layout_around_it",
        ),
    ),
    Case(
        "the number of the SCSI host changed",
        (f"{_CHOOSE}::test_names_and_places_that_change_at_a_boot_change_nothing",),
    ),
    Case(
        "each path of a multipath device is listed as a disk",
        (
            f"{_CHOOSE}::test_a_path_of_a_multipath_device_is_not_the_disk",
            f"{_RELEASE}::test_a_multipath_device_is_a_disk_and_not_taken_down",
            f"{_MACHINES}::test_machine",
        ),
        untested="no guest of ours has two paths to one disk: the facts are written by hand",
    ),
)

LEFTOVERS = (
    Case(
        "old md and LVM assembled by themselves keep the disk busy",
        (
            f"{_STACK}::test_what_is_captured_makes_the_same_on_empty_disks",
            f"{_STACK}::test_a_run_that_is_killed_after_any_step_is_converged_by_the_next",
            f"{_RELEASE}::test_luks_on_lvm_on_md_goes_from_the_top",
            f"{_STACK}::test_a_disk_that_an_array_also_stands_on_is_not_torn_out_of_it",
        ),
    ),
    Case(
        "the same geometry again, and an old label appears within the new array",
        (
            f"{_STACK}::test_a_run_that_is_killed_after_any_step_is_converged_by_the_next",
            f"{_CLONE}::test_what_stood_on_the_disk_does_not_come_back",
        ),
    ),
    Case(
        "LUKS hides what is within; wipefs does not look into partitions",
        (
            "unit/disk/test_plan.py::test_old_and_new_partitions_are_wiped_before_the_table_is_written",
            f"{_MACHINES}::test_machine",
            f"{_STACK}::test_what_is_captured_makes_the_same_on_empty_disks",
        ),
    ),
    Case(
        "the copy of a GPT stands at the end of a smaller disk",
        (f"{_LEFT}::test_a_strange_table_becomes_a_sound_one",),
    ),
    Case(
        "a second clone in one machine has the same UUIDs",
        (f"{_LEFT}::test_two_clones_in_one_machine_share_no_uuid",),
    ),
    Case(
        "labels of ZFS, bcache, DRBD, Ceph; a hibernated swap; swap and mounts in use",
        (
            f"{_LEFT}::test_a_label_is_named_and_gone",
            f"{_LAYOUT}::test_a_disk_in_use_is_released_only_when_that_was_said",
            f"{_RELEASE}::test_bcache_and_loop_devices_go_too",
        ),
        untested="stopping an assembled bcache: its module is in no kernel that the tests have",
    ),
)

GEOMETRY = (
    Case(
        "the target is smaller",
        (
            f"{_CLONE}::test_too_small_for_the_layout",
            f"{_CLONE}::test_too_small_for_the_image",
            f"{_LAYOUT}::test_what_a_captured_system_uses_must_fit",
        ),
        untested="NTFS is not made or shrunk by any layout",
    ),
    Case(
        "the target is larger, and the last partition is swap",
        (f"{_PLACING}::test_a_larger_disk_gives_to_the_rest_wherever_it_stands",),
    ),
    Case(
        "sectors of 512 bytes and of 4096",
        (
            f"{_CLONE}::test_sectors_of_4096_bytes",
            f"{_LAYOUT}::test_an_mbr_with_logical_partitions_on_sectors_of_4096_bytes",
            f"{_CHOOSE}::test_another_sector_size_is_refused",
        ),
    ),
    Case(
        "names such as nvme0n1p1, mmcblk0p1, md126p1, loop0p1, cciss!c0d0p1, mpatha-part1",
        (
            "unit/disk/test_plan.py::test_partitions_are_named_as_the_kernel_names_them",
            f"{_MACHINES}::test_machine",
        ),
    ),
    Case(
        "logical partitions of an MBR, a whole-disk PV, a hybrid MBR",
        (
            f"{_PLACING}::test_logical_partitions_stand_in_one_extended_with_a_gap_before_each",
            f"{_CLONE}::test_whatever_stood_there_before",
            f"{_MACHINES}::test_machine",
            f"{_LEFT}::test_a_strange_table_becomes_a_sound_one",
        ),
    ),
    Case(
        "an MBR on a disk beyond 2 TiB",
        (f"{_PLACING}::test_an_mbr_ends_at_two_tib", f"{_MISTAKES}::test_a_mistake_is_said"),
    ),
    Case(
        "the second disk is left out",
        ("integration/test_stream.py::test_onto_several_disks_all_filesystems_are_filled_at_once",),
    ),
    Case(
        "the kernel does not read the table anew; udev is late; partitions appear late",
        (
            f"{_APPLY}::test_a_node_that_nobody_makes_is_made",
            f"{_APPLY}::test_a_partition_that_somebody_looks_at_is_waited_for",
            f"{_APPLY}::test_a_partition_that_the_kernel_never_shows_is_an_error",
        ),
    ),
    Case(
        "an ESP on an array with its metadata in front, or an ESP that is too small",
        (
            f"{_MISTAKES}::test_an_esp_on_a_mirror_needs_its_metadata_at_the_end",
            f"{_MISTAKES}::test_a_mistake_is_said",
        ),
    ),
    Case(
        "a GPT without room for GRUB on a BIOS machine",
        (f"{_MISTAKES}::test_a_mistake_is_said",),
    ),
    Case(
        "RHEL's list of LVM devices names those of the golden machine",
        (
            "unit/disk/test_config_files.py::test_a_stack_is_written_into_all_of_them",
            "unit/disk/test_config_files.py::test_a_system_without_a_devices_file_gets_none",
        ),
    ),
)

LIES_AND_FAULTS = (
    Case(
        "a partition tool fails, the restore goes on, and the task is called done",
        (f"{_FAULTS}::test_a_program_that_fails_at_any_call",
         f"{_APPLY}::test_a_table_that_reads_back_differently_is_an_error"),
    ),
    Case(
        "a wipe that erases nothing",
        (f"{_LEFT}::test_a_label_is_named_and_gone",),
        untested="erasing by the firmware of an NVMe or ATA disk is not offered",
    ),
    Case(
        "power is cut at any step",
        (f"{_FAULTS}::test_power_is_lost_before_or_after_any_program_that_writes",
         f"{_STACK}::test_a_run_that_is_killed_after_any_step_is_converged_by_the_next",
         f"{_CLONE}::test_killed_anywhere_and_run_again_converges"),
    ),
    Case(
        "the disk vanishes",
        (f"{_FAULTS}::test_the_disk_vanishes_at_any_program_that_writes",),
    ),
    Case(
        "no space and read errors while writing",
        (f"{_FAULTS}::test_what_stands_for_the_disk_is_full",
         f"{_CLONE}::test_a_full_target_is_released"),
    ),
    Case(
        "a program is not installed",
        (f"{_FAULTS}::test_a_program_that_is_missing_is_found_before_anything_is_done",),
    ),
    Case(
        "a program keeps the mount after the end",
        (f"{_APPLY}::test_a_busy_mount_is_named_and_never_hidden",),
    ),
)  # fmt: skip

GROUPS = (WRONG_DISK, LEFTOVERS, GEOMETRY, LIES_AND_FAULTS)
