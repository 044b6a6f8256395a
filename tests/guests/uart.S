# Real mode: writes the NUL-terminated text at 0x3000 to COM1, then echoes its input (polled) until it gets "q".
    mov si, 0x3000
    cld
next:
    lodsb
    test al, al
    jz echo
    call put
    jmp next
echo:
    mov dx, 0x3fd           # line status
    in al, dx
    test al, 1              # a byte has come
    jz echo
    mov dx, 0x3f8
    in al, dx
    cmp al, 'q'
    je done
    call put
    jmp echo
done:
    cli
    hlt
put:
    mov ah, al
    mov dx, 0x3fd
busy:
    in al, dx
    test al, 0x20           # room for a byte
    jz busy
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    ret
