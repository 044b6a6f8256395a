# Two vcpus put jobs into one table of four, behind which is the address of what reports. Which of them runs is part of the input, of rsi
# bytes at 0x20000, so that each order of theirs can be made, and made again: 'p' puts a job into the table, 't' takes the last one out,
# and 's' has the other vcpu go on where it was. The bug: it is seen that there is room, then the job is made, and then it is put in;
# the other one may have filled the table meanwhile. They begin in real mode, with an interrupt table for what wakes one that waits.
ROOM = 4
WAKE = 0x40
SEEN = 0xa000                   # how often each place was passed
    mov word ptr [4 * WAKE], offset woken
    mov bp, 0                   # which vcpu this is
    call begin
    mov eax, 0xc4500            # INIT and SIPI to all but itself
    wrmsr
    mov eax, 0xc4602            # begin at 0x2000
    wrmsr
is_up:
    cmp byte ptr [is_there], 0
    je is_up
    out 0x99, al                # here the input comes
    mov [length], si
next:                           # it is this one's turn
    call fetch
    cmp al, 'p'
    je put
    cmp al, 't'
    je take
    cmp al, 's'
    jne next
    call other
    jmp next

put:
    inc byte ptr [SEEN]
    cmp word ptr [count], ROOM
    jae next
    call fetch                  # the job
    cmp al, 's'
    jne is_made
    inc byte ptr [SEEN + 1]
    call other
is_made:
.if FIXED
    cmp word ptr [count], ROOM  # nobody else runs from here on
    jae next
.endif
    inc byte ptr [SEEN + 2]
    mov bx, [count]
    shl bx, 2
    movzx eax, al
    not eax                     # where no code is
    mov [table + bx], eax
    inc word ptr [count]
    jmp next

take:
    cmp word ptr [count], 0
    je next
    inc byte ptr [SEEN + 3]
    dec word ptr [count]
    jmp next

fetch:                          # the next byte of the input, in al
    mov bx, [at]
    cmp bx, [length]
    jae over
    mov al, es:[bx]
    inc word ptr [at]
    ret
over:
    cmp bp, 0
    je report
    call other                  # the first one ends it
report:
    call far ptr [table + 4 * ROOM]
halt:
    out 0x99, al
    jmp halt
nothing:
    retf

other:                          # goes on, and this one when it is its turn again
    inc byte ptr [SEEN + 4 + bp]
    mov cx, bp
    xor cx, 1
    mov [turn], cx
    mov ecx, 0x830
    mov eax, 0xc4000 | WAKE     # an interrupt to all but itself
    wrmsr
waits:
    cli
    cmp [turn], bp
    je goes_on
    sti
    hlt
    jmp waits
goes_on:
    ret
woken:
    pushad
    mov ecx, 0x80b              # end of interrupt
    xor eax, eax
    xor edx, edx
    wrmsr
    popad
    iret

begin:                          # with a local APIC by its registers' numbers, of which ecx is the one that sends
    mov ax, 0x2000
    mov es, ax
    mov ecx, 0x1b
    rdmsr
    or ax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov ecx, 0x830
    ret

    .balign 4096                # the other vcpu
    ljmp 0, offset second
second:
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    mov bp, 1
    call begin
    mov byte ptr [is_there], 1
    call waits
    jmp next

at: .word 0
length: .word 0
turn: .word 0
count: .word 0
table: .word nothing, 0, nothing, 0, nothing, 0, nothing, 0
    .word nothing, 0
is_there: .byte 0
