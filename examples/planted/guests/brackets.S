# Reads a list of lists from 0x20000, rsi bytes: a bracket opens one, another one closes it. The bug: each that opens is a
# call, and the stack, the 1024 bytes from 0 on, has room for 128 of them. Below it is no memory.
DEEPEST = 100
    mov rbx, 0x20000
    add rsi, rbx
    mov rsp, 0x400
    xor ecx, ecx                # how deep it is
    call list
    hlt

list:
    cmp rbx, rsi
    jae end
    mov al, [rbx]
    inc rbx
    cmp al, ']'
    je end
    cmp al, '['
    jne list
.if FIXED
    cmp ecx, DEEPEST
    jae end
.endif
    inc ecx
    call list
    dec ecx
    jmp list
end:
    ret
