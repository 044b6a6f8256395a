# Real mode, with an interrupt controller: handles IRQ 5 of the first 8259 (vector 0x25). Each interrupt reads port
# 0x300 (the device may then lower its line) and counts in bx; after as many as byte 0x3000 says it writes port 0x301.
    cli
    xor ax, ax
    mov ds, ax
    mov word ptr [0x25 * 4], offset handler
    mov word ptr [0x25 * 4 + 2], 0
    mov al, 0x11            # ICW1: edge-triggered, cascade, ICW4 follows
    mov dx, [0x3002]        # ELCR value for the first controller
    out 0x20, al
    out 0xa0, al
    mov al, 0x20            # ICW2: vectors
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4               # ICW3: the second controller is at input 2
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1               # ICW4: 8086 mode
    out 0x21, al
    out 0xa1, al
    mov al, dl
    mov dx, 0x4d0           # ELCR: level-triggered inputs
    out dx, al
    mov al, 0xdf            # only input 5
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    xor bx, bx
    mov dx, 0x302
    out dx, al              # ready
    sti
wait:
    hlt
    cmp bl, [0x3000]
    jb wait
    cli
    mov dx, 0x301
    mov al, bl
    out dx, al
    hlt
handler:
    mov dx, 0x300
    in al, dx
    inc bx
    mov al, 0x20            # end of interrupt
    out 0x20, al
    iret
