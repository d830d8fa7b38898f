"""More of `failure_cases.py`: images on their way, what makes a node itself, and its start."""

from failure_cases import Case

_SWARM = "integration/test_swarm_loopback.py"
_SIMULATION = "property/test_swarm_simulation.py"
_STREAM = "integration/test_stream.py"
_AGENT = "integration/test_agent.py"
_FULL = "integration/test_full_disk_content.py"
_HOSTILE = "integration/test_restore_hostile.py"
_TWO = "integration/test_two_clones.py"
_OWN = "unit/identity/test_own.py"
_NETWORK = "unit/identity/test_network.py"
_KEPT = "integration/test_clone_identity.py"
_TEXTS = "unit/boot/test_texts.py"
_NVRAM = "unit/boot/test_nvram.py"
_ENTRIES = "unit/boot/test_entries.py"
_BOOT = "integration/test_boot_apply.py"
_PLAN = "unit/boot/test_plan.py"
_FIRST = "integration/test_first_boot.py"
_JOB = "unit/controller/test_first_boots.py"
_GUEST = "guest/test_boot.py"

TRANSFER = (
    Case(
        "one slow or dead client stalls all others, and its sender stays",
        (
            f"{_SWARM}::test_a_slow_peer_does_not_hold_the_rest",
            "integration/test_multicast.py::test_the_swarm_goes_on_where_the_sender_stops_or_never_begins",
        ),
    ),
    Case(
        "somebody comes late, when the seeder has left, or comes back with half of it",
        (
            f"{_SWARM}::test_a_late_joiner_gets_all_from_the_others_when_the_seeder_has_left",
            f"{_SWARM}::test_half_held_only_the_rest_travels_and_not_one_frame_twice",
            f"{_STREAM}::test_when_the_controller_is_gone_what_is_held_is_still_restored",
        ),
    ),
    Case(
        "the seeder or the coordinator is killed; hundreds of peers that know few others",
        (
            f"{_SIMULATION}::test_the_seeder_may_die_when_one_copy_is_out",
            f"{_SIMULATION}::test_the_tracker_may_die_after_the_first_answers",
            f"{_AGENT}::test_the_controller_may_die_meanwhile",
            f"{_SIMULATION}::test_a_fifth_of_the_peers_may_die_on_the_way",
        ),
    ),
    Case(
        "links, holes, attributes, capabilities, ACLs, odd names, an emptied path are lost",
        (
            "integration/test_round_trip.py::test_everything_comes_back",
            "integration/test_round_trip.py::test_every_kind_of_difference_is_named",
        ),
    ),
    Case(
        "all ask at once, are turned away, and hang",
        (
            "unit/swarm/test_core.py::test_busy_waits_longer_each_time_and_not_less_than_the_peer_says",
        ),
    ),
    Case(
        "memory is smaller than the image; the target or the store is full; a read fails",
        (
            f"{_STREAM}::test_onto_a_disk_with_the_store_on_it",
            f"{_FULL}::test_a_restore_into_a_full_target_says_so_and_goes_on_later",
            f"{_SWARM}::test_a_full_store_is_told_as_it_is",
            f"{_SWARM}::test_a_disk_that_cannot_be_read_is_told_and_the_others_serve",
        ),
    ),
    Case(
        "the clock says 1970 or 2099 where a node starts",
        (
            f"{_SWARM}::test_a_clock_of_1970_heals_with_one_retry",
            "integration/test_control.py::test_a_wrong_clock_heals_with_one_retry",
            f"{_FIRST}::test_the_job_is_done_when_the_new_system_has_told",
        ),
        untested="the first start's telling looks at no date at all: certificates carry none that "
        "counts, and the check of times is switched off",
    ),
    Case(
        "a path out of the tree, a bomb, a well-formed chunk that is the wrong one",
        (
            f"{_HOSTILE}::test_hostile_manifests_are_refused",
            f"{_HOSTILE}::test_links_that_stand_in_the_way_are_replaced_not_followed",
            f"{_HOSTILE}::test_chunks_that_are_not_what_the_manifest_says_are_never_written",
            f"{_SWARM}::test_a_liar_is_dropped_and_reported_and_nobody_keeps_its_bytes",
        ),
    ),
    Case(
        "two nodes have one address; large frames vanish; the port is slow to open",
        ("unit/controller/test_inventories.py::test_a_mac_or_address_belongs_to_one_node",),
        untested="switches and their ports: the tests' network has none",
    ),
)

IDENTITY = (
    Case(
        "clones have one machine-id, and so one DHCP lease",
        (
            f"{_TWO}::test_a_row_of_the_identity",
            f"{_GUEST}::test_one_disk_boots_by_uefi_and_by_bios",
        ),
    ),
    Case(
        "clones have one NVMe host NQN, host id or iSCSI name, and destroy each other's data",
        (f"{_TWO}::test_a_row_of_the_identity", f"{_OWN}::test_nqn_and_host_id_are_one_pair"),
    ),
    Case(
        "the golden machine's network card stands in the configuration",
        (
            f"{_NETWORK}::test_what_the_golden_machine_had_goes_and_stays_away",
            f"{_NETWORK}::test_without_interfaces_all_stays_and_what_is_bound_is_said",
        ),
    ),
    Case(
        "SSH host keys change with each deployment, and every known_hosts cries",
        (
            f"{_KEPT}::test_a_node_that_is_cloned_again_keeps_its_host_keys",
            f"{_KEPT}::test_an_old_disk_that_lost_power_is_not_changed_by_the_look",
        ),
    ),
    Case(
        "resume= or rd.lvm.lv= of the golden machine lets every start wait or hang",
        (f"{_TEXTS}::test_stale_words_go_and_the_rest_stays", f"{_TEXTS}::test_resume"),
    ),
    Case(
        "a machine-id that was removed breaks the first start",
        (f"{_OWN}::test_a_tree_with_nothing_gets_what_every_node_has",),
    ),
    Case(
        "two nodes claim one identity; a node has another card or board",
        (
            "unit/controller/test_members.py::test_only_proof_replaces_a_node",
            "unit/controller/test_inventories.py::test_a_mac_or_address_belongs_to_one_node",
            f"{_OWN}::test_a_node_that_is_deployed_again_is_the_same_node",
        ),
    ),
    Case(
        "a host name that was edited by hand refuses to change",
        (f"{_OWN}::test_older_places_of_the_hostname_are_written_where_they_are",),
    ),
)

START = (
    Case(
        "after the first start the network is not first any more",
        (
            f"{_PLAN}::test_debian_on_uefi_and_bios",
            f"{_ENTRIES}::test_leave_puts_a_new_entry_before_the_first_that_is_no_network",
            f"{_ENTRIES}::test_the_order_that_is_wished",
        ),
        untested="a TPM that resets the machine: the emulated one has none",
    ),
    Case(
        "the firmware's memory is full, locked, forgets, or wears out",
        (
            f"{_NVRAM}::test_full_memory_is_told_with_what_the_tool_said",
            f"{_NVRAM}::test_the_second_time_nothing_is_written",
            f"{_GUEST}::test_one_disk_boots_by_uefi_and_by_bios",
        ),
        untested="firmware that breaks by many writes: it is written where it differs, no more",
    ),
    Case(
        "the firmware's variables are not there: started by BIOS, or not mounted",
        (
            f"{_NVRAM}::test_a_machine_that_was_started_by_bios_is_told_so",
            f"{_NVRAM}::test_variables_that_are_not_mounted_are_told",
        ),
    ),
    Case(
        "old entries of the boot loader win over new kernels",
        (
            f"{_TEXTS}::test_entries_follow_the_machine_id_and_the_rescue_entry_goes",
            f"{_PLAN}::test_rhel_entries_get_the_machine_id_and_the_root",
            f"{_BOOT}::test_the_menu_follows_a_restore_in_place",
        ),
    ),
    Case(
        "the initramfs was made for another machine's controller",
        (
            f"{_BOOT}::test_a_program_that_says_done_and_did_nothing",
            f"{_PLAN}::test_a_driver_that_is_missing_is_added_before_the_rebuild",
            f"{_PLAN}::test_rhel_a_missing_driver_ends_hostonly",
        ),
    ),
    Case(
        "two ESPs, and one of them got no loader",
        (f"{_BOOT}::test_an_esp_that_got_no_loader_is_noticed",),
    ),
    Case(
        "Secure Boot, and a GRUB that nobody signed",
        (
            f"{_PLAN}::test_rhel_never_makes_an_unsigned_loader_for_uefi",
            f"{_PLAN}::test_debian_on_uefi_and_bios",
        ),
        untested="firmware that enforces it: the tests' has no keys",
    ),
    Case(
        "power is cut, or a program killed, while the loaders are installed",
        (f"{_BOOT}::test_kill_9_in_the_middle_leaves_no_mount_and_a_second_run_converges",),
    ),
    Case(
        "a program of the loader fails, or did nothing and said it did",
        (
            f"{_BOOT}::test_a_program_that_fails_is_named_and_a_second_run_converges",
            f"{_BOOT}::test_a_program_that_says_done_and_did_nothing",
            f"{_NVRAM}::test_a_tool_that_says_done_and_wrote_nothing_is_found_out",
        ),
    ),
    Case(
        "the image is written, and the node starts its old disk",
        (
            f"{_JOB}::test_a_node_that_comes_back_with_its_old_system",
            f"{_FIRST}::test_another_system_is_a_failure_that_names_the_difference",
        ),
    ),
    Case(
        "the node never comes back",
        (
            f"{_JOB}::test_a_node_that_does_not_come_back",
            f"{_JOB}::test_a_node_that_never_restarts",
            f"{_JOB}::test_who_tells_later_is_believed",
        ),
    ),
    Case(
        "a clone is killed, and its job waits for ever",
        (
            f"{_FIRST}::test_a_clone_that_is_killed_is_told_at_once",
            f"{_JOB}::test_a_clone_that_was_killed_ends_although_its_node_is_heard",
        ),
    ),
)

NODES = (TRANSFER, IDENTITY, START)
