/* programs.S - the archive of programs, put into the kernel as it is; archive.c reads it. */
.section .rodata
.balign 4
.global archive_start, archive_end
archive_start:
    .incbin "programs.tar"
archive_end:
