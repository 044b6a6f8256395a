# Reads records from 0x20000, rsi bytes of them: a type, a length, so many bytes. One of type 1 is a name, and is copied
# to 16 bytes on the stack. The bug: the length is compared with what is left of the input, and not with the 16 bytes; what
# is behind them is where the function returns to.
    lea rbx, [rsi + 0x20000]    # the end of the input
    mov rsi, 0x20000
next:
    lea rax, [rsi + 2]
    cmp rax, rbx
    ja done
    movzx ecx, byte ptr [rsi + 1]
    lea rdx, [rax + rcx]
    cmp rdx, rbx
    ja done                     # it says that it is longer than the input
    cmp byte ptr [rsi], 1
    mov rsi, rax
    jne skip
    call name
skip:
    mov rsi, rdx
    jmp next
done:
    hlt

name:                           # rsi, ecx
    sub rsp, 16
.if FIXED
    cmp ecx, 16
    ja name_end
.endif
    mov rdi, rsp
    rep movsb
name_end:
    add rsp, 16
    ret
